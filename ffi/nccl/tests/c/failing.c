/* What the living see of ranks that die, are aborted, or make another call.
   failing death|idle|both RANK FILE VICTIMS: one of a job of four processes. The ranks named in VICTIMS, as in 30, are to be
   killed, each when all that live have said "ready"; with "both" all at once.
   failing abort|background|quit|mismatch|late: all in one process. */
#include "exercise.h"
#include <pthread.h>

enum { RANKS = 4, MANY = 1 << 20 };
enum { NCCL_SHRINK_DEFAULT = 0, NCCL_SHRINK_ABORT = 1 };

static int is_loss(ncclResult_t result) { return result == ncclRemoteError || result == ncclSystemError; }

static void say(const char *word) {
    printf("@@%s\n", word);
    fflush(stdout);
}

/* Calls, or only looks, until the communicator has failed: by the death of a rank with one of these names. */
static void lose(ncclComm_t comm, float *data, int idle, const char *one, const char *other) {
    ncclResult_t state;
    if (!idle) {
        ncclResult_t result = ncclAllReduce(data, data, MANY, ncclFloat32, ncclSum, comm, NULL);
        if (!is_loss(result)) give_up(__FILE__, __LINE__, "ncclAllReduce without a rank", result);
        HOLDS(strstr(ncclGetLastError(NULL), one) || strstr(ncclGetLastError(NULL), other));
        HOLDS(strstr(ncclGetLastError(comm), one) || strstr(ncclGetLastError(comm), other));
    }
    do {
        OK(ncclCommGetAsyncError(comm, &state));
        usleep(1000); /* as a watchdog polls; the test ends a rank that waits too long */
    } while (state == ncclSuccess);
    if (!is_loss(state)) give_up(__FILE__, __LINE__, "ncclCommGetAsyncError", state);
    HOLDS(strstr(ncclGetLastError(NULL), one) || strstr(ncclGetLastError(NULL), other));
    say("lost");
}

/* Until it is killed. */
static void die(void) {
    (void)getchar();
    HOLDS(!"killed by now");
}

static ncclComm_t join(int rank, const char *file, float *data) {
    ncclComm_t comm;
    ncclUniqueId id;
    share(&id, 1, rank, file);
    OK(ncclCommInitRank(&comm, RANKS, id, rank));
    OK(ncclAllReduce(data, data, MANY, ncclFloat32, ncclSum, comm, NULL));
    return comm;
}

/* One after the other; each time the others shrink and go on, with either flag. */
static void death(int me, const char *file, int idle, const char *victims) {
    int alive[RANKS] = {0, 1, 2, 3}, ranks = RANKS;
    float *data = calloc(MANY, sizeof *data);
    ncclComm_t comm = join(me, file, data), rest;
    for (int round = 0; victims[round]; round++) {
        char name[16];
        int dead = 0, rank = 0;
        while (alive[dead] != victims[round] - '0') dead++;
        snprintf(name, sizeof name, "rank %d ", dead);
        say("ready");
        if (alive[dead] == me) die();
        lose(comm, data, idle, name, name);
        OK(ncclCommShrink(comm, &dead, 1, &rest, NULL, round % 2 ? NCCL_SHRINK_DEFAULT : NCCL_SHRINK_ABORT));
        OK(ncclCommAbort(comm));
        comm = rest;
        ranks--;
        memmove(alive + dead, alive + dead + 1, (ranks - dead) * sizeof *alive);
        while (alive[rank] != me) rank++;
        exercise(&(struct job){.ranks = ranks, .local = 1, .comm = {comm}, .rank = {rank}});
    }
    OK(ncclCommDestroy(comm));
    free(data);
    say("right");
}

/* Two at once, of whom the program has heard of one: it is told of the other, and shrinks again. */
static void both(int me, const char *file, const char *victims) {
    int dead[2] = {victims[0] - '0', victims[1] - '0'}, rank = 0;
    float *data = calloc(MANY, sizeof *data);
    ncclComm_t comm = join(me, file, data), rest;
    char names[2][16];
    for (int i = 0; i < 2; i++) snprintf(names[i], sizeof names[i], "rank %d", dead[i]);
    say("ready");
    if (me == dead[0] || me == dead[1]) die();
    lose(comm, data, 0, names[0], names[1]);
    ncclResult_t result = ncclCommShrink(comm, dead, 1, &rest, NULL, NCCL_SHRINK_ABORT);
    if (!is_loss(result) || rest || !strstr(ncclGetLastError(NULL), names[1]))
        give_up(__FILE__, __LINE__, "ncclCommShrink that keeps a dead rank", result);
    OK(ncclCommShrink(comm, dead, 2, &rest, NULL, NCCL_SHRINK_ABORT));
    OK(ncclCommAbort(comm));
    for (int other = 0; other < me; other++) rank += other != dead[0] && other != dead[1];
    exercise(&(struct job){.ranks = RANKS - 2, .local = 1, .comm = {rest}, .rank = {rank}});
    OK(ncclCommDestroy(rest));
    free(data);
    say("right");
}

/* One of two ranks, in a call that the other does not make. */
static void *stuck(void *comm) {
    float one = 1;
    ncclResult_t result = ncclAllReduce(&one, &one, 1, ncclFloat32, ncclSum, comm, NULL);
    const char *text = ncclGetLastError(NULL);
    if (result != ncclRemoteError || !strstr(text, "ncclCommAbort")) give_up(__FILE__, __LINE__, "an aborted call", result);
    return NULL;
}

static void aborted(void) {
    ncclComm_t comm[2];
    pthread_t thread;
    ncclResult_t state;
    OK(ncclCommInitAll(comm, 2, NULL));
    HOLDS(pthread_create(&thread, NULL, stuck, comm[0]) == 0);
    /* Until the thread is inside, a suspension of an idle communicator succeeds: so that the abort meets a call. */
    while (ncclCommSuspend(comm[0], 1) == ncclSuccess) {
        OK(ncclCommResume(comm[0]));
        usleep(1000);
    }
    OK(ncclCommAbort(comm[0]));
    HOLDS(pthread_join(thread, NULL) == 0);
    do {
        OK(ncclCommGetAsyncError(comm[1], &state));
    } while (state == ncclSuccess);
    HOLDS(state == ncclRemoteError && strstr(ncclGetLastError(comm[1]), "ncclCommAbort"));
    OK(ncclCommAbort(comm[1]));
}

/* In the background, too. */
static void aborted_in_the_background(void) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm[2];
    ncclUniqueId id;
    ncclResult_t state;
    float data[2] = {1, 1};
    config.blocking = 0;
    OK(ncclGetUniqueId(&id));
    for (int rank = 0; rank < 2; rank++) HOLDS(ncclCommInitRankConfig(&comm[rank], 2, id, rank, &config) == ncclInProgress);
    for (int rank = 0; rank < 2; rank++) settle(comm[rank]);
    HOLDS(ncclAllReduce(&data[0], &data[0], 1, ncclFloat32, ncclSum, comm[0], NULL) == ncclInProgress);
    OK(ncclCommGetAsyncError(comm[0], &state));
    HOLDS(state == ncclInProgress);
    HOLDS(ncclAllReduce(&data[1], &data[1], 1, ncclFloat32, ncclSum, comm[1], NULL) == ncclInProgress);
    for (int rank = 0; rank < 2; rank++) settle(comm[rank]);
    HOLDS(data[0] == 2 && data[1] == 2);
    HOLDS(ncclAllReduce(&data[0], &data[0], 1, ncclFloat32, ncclSum, comm[0], NULL) == ncclInProgress);
    OK(ncclCommAbort(comm[0]));
    do {
        OK(ncclCommGetAsyncError(comm[1], &state));
    } while (state == ncclSuccess);
    HOLDS(state == ncclRemoteError);
    OK(ncclCommDestroy(comm[1]));
    /* One whose other rank never comes: busy, refuses calls, and can be given up at once. */
    OK(ncclGetUniqueId(&id));
    HOLDS(ncclCommInitRankConfig(&comm[0], 2, id, 0, &config) == ncclInProgress);
    OK(ncclCommGetAsyncError(comm[0], &state));
    HOLDS(state == ncclInProgress);
    HOLDS(ncclAllReduce(&data[0], &data[0], 1, ncclFloat32, ncclSum, comm[0], NULL) == ncclInvalidArgument);
    OK(ncclCommAbort(comm[0]));
}

/* An idle communicator just leaves, and nobody is disturbed who does not need it. */
static void abort_of_the_idle(void) {
    ncclComm_t comm[2];
    ncclResult_t state;
    float data = 1;
    OK(ncclCommInitAll(comm, 2, NULL));
    OK(ncclCommAbort(comm[0]));
    for (int look = 0; look < 100; look++) {
        OK(ncclCommGetAsyncError(comm[1], &state));
        HOLDS(state == ncclSuccess);
        usleep(1000);
    }
    ncclResult_t result = ncclAllReduce(&data, &data, 1, ncclFloat32, ncclSum, comm[1], NULL);
    HOLDS(result == ncclRemoteError && strstr(ncclGetLastError(NULL), "rank 0"));
    OK(ncclCommAbort(comm[1]));
}

static void mismatch(void) {
    ncclComm_t comm[2];
    float data[8] = {0};
    OK(ncclCommInitAll(comm, 2, NULL));
    OK(ncclGroupStart());
    OK(ncclAllReduce(data, data, 2, ncclFloat32, ncclSum, comm[0], NULL));
    OK(ncclAllReduce(data + 4, data + 4, 3, ncclFloat32, ncclSum, comm[1], NULL));
    ncclResult_t result = ncclGroupEnd();
    const char *text = ncclGetLastError(NULL);
    if (result != ncclInvalidUsage || !strstr(text, "count 2") || !strstr(text, "count 3"))
        give_up(__FILE__, __LINE__, "a mismatch", result);
    OK(ncclCommAbort(comm[0]));
    OK(ncclCommAbort(comm[1]));
}

/* A job that does not fill: one of two ranks, then two of three in a group. */
static void late(void) {
    ncclComm_t comm[2];
    ncclUniqueId id;
    HOLDS(setenv("ROUNDEL_INIT_TIMEOUT_MS", "200", 1) == 0);
    OK(ncclGetUniqueId(&id));
    ncclResult_t result = ncclCommInitRank(&comm[0], 2, id, 0);
    if (result != ncclRemoteError || comm[0] || !strstr(ncclGetLastError(NULL), "missing: rank 1"))
        give_up(__FILE__, __LINE__, "ncclCommInitRank of half a job", result);
    OK(ncclGetUniqueId(&id));
    OK(ncclGroupStart());
    for (int rank = 0; rank < 2; rank++) OK(ncclCommInitRank(&comm[rank], 3, id, rank));
    HOLDS(comm[0] && comm[1]);
    result = ncclGroupEnd();
    if (result != ncclRemoteError || comm[0] || comm[1] || !strstr(ncclGetLastError(NULL), "missing: rank 2"))
        give_up(__FILE__, __LINE__, "ncclGroupEnd of two thirds of a job", result);
}

int main(int argc, char **argv) {
    HOLDS(argc == 2 || argc == 5);
    const char *what = argv[1];
    if (argc == 5) {
        if (strcmp(what, "both") == 0) both(atoi(argv[2]), argv[3], argv[4]);
        else death(atoi(argv[2]), argv[3], strcmp(what, "idle") == 0, argv[4]);
        return 0;
    }
    if (strcmp(what, "abort") == 0) aborted();
    if (strcmp(what, "background") == 0) aborted_in_the_background();
    if (strcmp(what, "quit") == 0) abort_of_the_idle();
    if (strcmp(what, "mismatch") == 0) mismatch();
    if (strcmp(what, "late") == 0) late();
    printf("@@right\n");
    return 0;
}
