/* What any NCCL program does, on any number of ranks that this thread speaks for, checked against sums on paper. */
#ifndef EXERCISE_H
#define EXERCISE_H

#include "nccl_decl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_RANKS 8
#define COUNT 1003

static inline void give_up(const char *file, int line, const char *what, ncclResult_t result) {
    fprintf(stderr, "%s:%d: %s gave %d (%s): %s\n", file, line, what, result, ncclGetErrorString(result),
            ncclGetLastError(NULL));
    exit(1);
}

/* The call succeeds, or goes on in the background. */
#define OK(call) do {                                                                       \
        ncclResult_t result_ = (call);                                                      \
        if (result_ != ncclSuccess && result_ != ncclInProgress) give_up(__FILE__, __LINE__, #call, result_); \
    } while (0)
/* The condition holds. */
#define HOLDS(condition) do {                                                               \
        if (!(condition)) {                                                                 \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);         \
            exit(1);                                                                        \
        }                                                                                   \
    } while (0)

/* The ranks of one communicator that this thread speaks for. */
struct job {
    int ranks, local;
    ncclComm_t comm[MOST_RANKS];
    int rank[MOST_RANKS];
};

/* Waits until nothing goes on in the background. */
static inline void settle(ncclComm_t comm) {
    ncclResult_t state;
    do {
        OK(ncclCommGetAsyncError(comm, &state));
        usleep(100); /* as a program polls */
    } while (state == ncclInProgress);
    if (state != ncclSuccess) give_up(__FILE__, __LINE__, "ncclCommGetAsyncError", state);
}

static inline void begin(const struct job *job) {
    if (job->local > 1) OK(ncclGroupStart());
}

static inline void end(const struct job *job) {
    if (job->local > 1) OK(ncclGroupEnd());
    for (int i = 0; i < job->local; i++) settle(job->comm[i]);
}

/* For each rank that this thread speaks for: `c` its communicator, `r` its number, `i` its index. Together. */
#define EACH(job, ...) do {                                                                 \
        begin(job);                                                                         \
        for (int i = 0; i < (job)->local; i++) {                                            \
            ncclComm_t c = (job)->comm[i];                                                  \
            int r = (job)->rank[i];                                                         \
            (void)c, (void)r;                                                               \
            __VA_ARGS__;                                                                    \
        }                                                                                   \
        end(job);                                                                           \
    } while (0)
/* The same, after it. */
#define CHECK_EACH(job, ...) do {                                                           \
        for (int i = 0; i < (job)->local; i++) {                                            \
            int r = (job)->rank[i];                                                         \
            (void)r;                                                                        \
            __VA_ARGS__;                                                                    \
        }                                                                                   \
    } while (0)

static inline int64_t value(int rank, size_t index) { return (rank + 1) * (int64_t)(index % 97 + 1); }

static inline int64_t *integers(size_t count) { return calloc(count + 1, sizeof(int64_t)); }

static inline void exercise(const struct job *job) {
    const int n = job->ranks;
    const int64_t ones = (int64_t)n * (n + 1) / 2; /* the sum of rank + 1 */
    int64_t *in[MOST_RANKS], *out[MOST_RANKS];
    for (int i = 0; i < job->local; i++) {
        in[i] = integers((size_t)n * COUNT);
        out[i] = integers((size_t)n * COUNT);
        for (size_t k = 0; k < (size_t)n * COUNT; k++) in[i][k] = value(job->rank[i], k);
    }

    EACH(job, OK(ncclAllReduce(in[i], out[i], COUNT, ncclInt64, ncclSum, c, NULL)));
    CHECK_EACH(job, for (size_t k = 0; k < COUNT; k++) HOLDS(out[i][k] == ones * (int64_t)(k % 97 + 1)));
    CHECK_EACH(job, memcpy(out[i], in[i], COUNT * 8));
    EACH(job, OK(ncclAllReduce(out[i], out[i], COUNT, ncclInt64, ncclMax, c, NULL)));
    CHECK_EACH(job, for (size_t k = 0; k < COUNT; k++) HOLDS(out[i][k] == value(n - 1, k)));
    ncclCollConfig_t hints = NCCL_COLLCONFIG_INITIALIZER;
    hints.maxCTAs = 4;
    EACH(job, OK(ncclAllReduceConfig(in[i], out[i], COUNT, ncclInt64, ncclMin, c, NULL, &hints)));
    CHECK_EACH(job, for (size_t k = 0; k < COUNT; k++) HOLDS(out[i][k] == value(0, k)));
    EACH(job, OK(ncclAllReduceConfig(in[i], out[i], COUNT, ncclInt64, ncclProd, c, NULL, NULL)));
    CHECK_EACH(job, for (size_t k = 0; k < COUNT; k++) {
        int64_t product = 1;
        for (int rank = 0; rank < n; rank++) product *= value(rank, k);
        HOLDS(out[i][k] == product);
    });

    double real[MOST_RANKS], mean[MOST_RANKS], factor[MOST_RANKS];
    ncclRedOp_t now[MOST_RANKS], later[MOST_RANKS];
    CHECK_EACH(job, real[i] = r + 1);
    EACH(job, OK(ncclAllReduce(&real[i], &mean[i], 1, ncclFloat64, ncclAvg, c, NULL)));
    CHECK_EACH(job, HOLDS(mean[i] == (n + 1) / 2.0));
    for (int i = 0; i < job->local; i++) {
        factor[i] = 0.5 * (job->rank[i] + 1);
        OK(ncclRedOpCreatePreMulSum(&now[i], &factor[i], ncclFloat64, ncclScalarHostImmediate, job->comm[i]));
        OK(ncclRedOpCreatePreMulSum(&later[i], &factor[i], ncclFloat64, ncclScalarDevice, job->comm[i]));
        HOLDS(now[i] >= ncclNumOps && later[i] >= ncclNumOps && now[i] != later[i]);
        factor[i] = 2; /* too late for the one, in time for the other */
        real[i] = 4;
    }
    EACH(job, OK(ncclAllReduce(&real[i], &mean[i], 1, ncclFloat64, now[i], c, NULL)));
    CHECK_EACH(job, HOLDS(mean[i] == 2.0 * (double)ones));
    EACH(job, OK(ncclAllReduce(&real[i], &mean[i], 1, ncclFloat64, later[i], c, NULL)));
    CHECK_EACH(job, HOLDS(mean[i] == 8.0 * n));
    for (int i = 0; i < job->local; i++) {
        OK(ncclRedOpDestroy(now[i], job->comm[i]));
        OK(ncclRedOpDestroy(later[i], job->comm[i]));
    }

    /* Every type there is: the sum of n ones. Small floats by their bits. */
    static const uint16_t half[] = {0, 0x3c00, 0x4000, 0x4200, 0x4400}, bf16[] = {0, 0x3f80, 0x4000, 0x4040, 0x4080};
    static const uint8_t e4m3[] = {0, 0x38, 0x40, 0x44, 0x48}, e5m2[] = {0, 0x3c, 0x40, 0x42, 0x44};
    static const size_t len[ncclNumTypes] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    HOLDS(n <= 4);
    for (int type = 0; type < ncclNumTypes; type++) {
        unsigned char one[8] = {1}, all[8] = {(unsigned char)n};
        const float one_f = 1, all_f = (float)n;
        const double one_d = 1, all_d = n;
        const void *given = one, *wanted = all;
        switch (type) {
        case ncclFloat16: given = &half[1], wanted = &half[n]; break;
        case ncclBfloat16: given = &bf16[1], wanted = &bf16[n]; break;
        case ncclFloat8e4m3: given = &e4m3[1], wanted = &e4m3[n]; break;
        case ncclFloat8e5m2: given = &e5m2[1], wanted = &e5m2[n]; break;
        case ncclFloat32: given = &one_f, wanted = &all_f; break;
        case ncclFloat64: given = &one_d, wanted = &all_d; break;
        default: break;
        }
        EACH(job, memset(out[i], 0xee, 8); OK(ncclAllReduce(given, out[i], 1, (ncclDataType_t)type, ncclSum, c, NULL)));
        CHECK_EACH(job, HOLDS(memcmp(out[i], wanted, len[type]) == 0));
    }

    for (int root = 0; root < n; root++) {
        EACH(job, OK(ncclReduce(in[i], r == root ? out[i] : NULL, COUNT, ncclInt64, ncclSum, root, c, NULL)));
        CHECK_EACH(job, for (size_t k = 0; r == root && k < COUNT; k++) HOLDS(out[i][k] == ones * (int64_t)(k % 97 + 1)));
        EACH(job, OK(ncclBroadcast(r == root ? in[i] : NULL, out[i], COUNT, ncclInt64, root, c, NULL)));
        CHECK_EACH(job, for (size_t k = 0; k < COUNT; k++) HOLDS(out[i][k] == value(root, k)));
        EACH(job, memcpy(out[i], in[i], COUNT * 8); OK(ncclBcast(out[i], COUNT, ncclInt64, root, c, NULL)));
        CHECK_EACH(job, for (size_t k = 0; k < COUNT; k++) HOLDS(out[i][k] == value(root, k)));
        EACH(job, OK(ncclGather(in[i], r == root ? out[i] : NULL, COUNT, ncclInt64, root, c, NULL)));
        CHECK_EACH(job, for (size_t k = 0; r == root && k < (size_t)n * COUNT; k++)
            HOLDS(out[i][k] == value((int)(k / COUNT), k % COUNT)));
        EACH(job, OK(ncclScatter(r == root ? in[i] : NULL, out[i], COUNT, ncclInt64, root, c, NULL)));
        CHECK_EACH(job, for (size_t k = 0; k < COUNT; k++) HOLDS(out[i][k] == value(root, (size_t)r * COUNT + k)));
    }

    EACH(job, OK(ncclReduceScatter(in[i], out[i], COUNT, ncclInt64, ncclSum, c, NULL)));
    CHECK_EACH(job, for (size_t k = 0; k < COUNT; k++)
        HOLDS(out[i][k] == ones * (int64_t)(((size_t)r * COUNT + k) % 97 + 1)));
    CHECK_EACH(job, memcpy(out[i], in[i], (size_t)n * COUNT * 8));
    EACH(job, OK(ncclReduceScatter(out[i], out[i] + (size_t)r * COUNT, COUNT, ncclInt64, ncclSum, c, NULL)));
    CHECK_EACH(job, for (size_t k = (size_t)r * COUNT; k < (size_t)(r + 1) * COUNT; k++)
        HOLDS(out[i][k] == ones * (int64_t)(k % 97 + 1)));
    EACH(job, OK(ncclAllGather(in[i], out[i], COUNT, ncclInt64, c, NULL)));
    CHECK_EACH(job, for (size_t k = 0; k < (size_t)n * COUNT; k++) HOLDS(out[i][k] == value((int)(k / COUNT), k % COUNT)));
    CHECK_EACH(job, memset(out[i], 0, (size_t)n * COUNT * 8); memcpy(out[i] + (size_t)r * COUNT, in[i], COUNT * 8));
    EACH(job, OK(ncclAllGather(out[i] + (size_t)r * COUNT, out[i], COUNT, ncclInt64, c, NULL)));
    CHECK_EACH(job, for (size_t k = 0; k < (size_t)n * COUNT; k++) HOLDS(out[i][k] == value((int)(k / COUNT), k % COUNT)));
    EACH(job, OK(ncclAlltoAll(in[i], out[i], COUNT, ncclInt64, c, NULL)));
    CHECK_EACH(job, for (size_t k = 0; k < (size_t)n * COUNT; k++)
        HOLDS(out[i][k] == value((int)(k / COUNT), (size_t)r * COUNT + k % COUNT)));

    /* The same by hand: everybody's message to everybody, oneself included. And the group in a group. */
    CHECK_EACH(job, memset(out[i], 0, (size_t)n * COUNT * 8));
    OK(ncclGroupStart());
    EACH(job, OK(ncclGroupStart()); for (int peer = 0; peer < n; peer++) {
        OK(ncclSend(in[i] + (size_t)peer * COUNT, COUNT, ncclInt64, peer, c, NULL));
        OK(ncclRecv(out[i] + (size_t)peer * COUNT, COUNT, ncclInt64, peer, c, NULL));
    } OK(ncclGroupEnd()));
    OK(ncclGroupEnd());
    for (int i = 0; i < job->local; i++) settle(job->comm[i]);
    CHECK_EACH(job, for (size_t k = 0; k < (size_t)n * COUNT; k++)
        HOLDS(out[i][k] == value((int)(k / COUNT), (size_t)r * COUNT + k % COUNT)));

    /* Several collectives in one group, of several types; and nothing at all, from nowhere. */
    float small[MOST_RANKS];
    CHECK_EACH(job, small[i] = 1);
    OK(ncclGroupStart());
    EACH(job, OK(ncclAllReduce(in[i], out[i], COUNT, ncclInt64, ncclSum, c, NULL));
              OK(ncclAllReduce(&small[i], &small[i], 1, ncclFloat32, ncclSum, c, NULL));
              OK(ncclBroadcast(NULL, NULL, 0, ncclInt8, 0, c, NULL)));
    OK(ncclGroupEnd());
    for (int i = 0; i < job->local; i++) settle(job->comm[i]);
    CHECK_EACH(job, HOLDS(small[i] == (float)n); HOLDS(out[i][COUNT - 1] == ones * (int64_t)((COUNT - 1) % 97 + 1)));
    EACH(job, OK(ncclAllReduce(NULL, NULL, 0, ncclFloat32, ncclSum, c, NULL)));

    for (int i = 0; i < job->local; i++) {
        int count, rank;
        OK(ncclCommCount(job->comm[i], &count));
        OK(ncclCommUserRank(job->comm[i], &rank));
        HOLDS(count == n && rank == job->rank[i]);
        free(in[i]);
        free(out[i]);
    }
}

/* The id of rank 0 for all ranks, through a file that appears whole. */
static inline void share(ncclUniqueId *ids, int count, int rank, const char *file) {
    const size_t len = (size_t)count * sizeof *ids;
    if (rank == 0) {
        char draft[4096];
        for (int i = 0; i < count; i++) OK(ncclGetUniqueId(&ids[i]));
        snprintf(draft, sizeof draft, "%s.draft", file);
        FILE *out = fopen(draft, "wb");
        HOLDS(out && fwrite(ids, len, 1, out) == 1 && fclose(out) == 0 && rename(draft, file) == 0);
    } else {
        FILE *in;
        while (!(in = fopen(file, "rb"))) usleep(1000); /* the test ends a rank that waits too long */
        HOLDS(fread(ids, len, 1, in) == 1);
        fclose(in);
    }
}

/* Even and odd ranks, the odd ones in reverse; then the first rank alone, and nobody else. */
static inline void exercise_splits(const struct job *job) {
    struct job even = {.ranks = (job->ranks + 1) / 2}, odd = {.ranks = job->ranks / 2};
    ncclComm_t child[MOST_RANKS];
    EACH(job, OK(ncclCommSplit(c, r % 2, r % 2 ? -r : r, &child[i], NULL)));
    for (int i = 0; i < job->local; i++) {
        struct job *half = job->rank[i] % 2 ? &odd : &even;
        settle(child[i]);
        half->comm[half->local] = child[i];
        OK(ncclCommUserRank(child[i], &half->rank[half->local]));
        HOLDS(half->rank[half->local] == (job->rank[i] % 2 ? odd.ranks - 1 - job->rank[i] / 2 : job->rank[i] / 2));
        half->local++;
    }
    if (even.local) exercise(&even);
    if (odd.local) exercise(&odd);
    for (int i = 0; i < job->local; i++) OK(ncclCommDestroy(child[i]));

    EACH(job, OK(ncclCommSplit(c, r == 0 ? 5 : -1, 0, &child[i], NULL)));
    CHECK_EACH(job, HOLDS((child[i] != NULL) == (r == 0)));
    for (int i = 0; i < job->local; i++) {
        if (child[i]) settle(child[i]);
        OK(ncclCommDestroy(child[i]));
    }
}

#endif
