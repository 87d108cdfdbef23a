/* Every call of roundel.h as one rank of a job, against sums on paper. The argument is the number of elements. */
#include "expect.h"

#include <stdint.h>
#include <string.h>

static roundel_comm_t comm;
static int32_t me, n;

/* What rank `rank` has at `index`, and the sum of that over the ranks. */
static int64_t value(int32_t rank, size_t index) { return rank * 1000 + (int64_t)(index % 997); }

static int64_t sum(size_t index) {
    int64_t total = 0;
    for (int32_t rank = 0; rank < n; rank++) {
        total += value(rank, index);
    }
    return total;
}

static int64_t *room(size_t count) {
    int64_t *data = calloc(count + 1, sizeof *data);
    EXPECT(data != NULL);
    return data;
}

static int64_t *mine(size_t count) {
    int64_t *data = room(count);
    for (size_t index = 0; index < count; index++) {
        data[index] = value(me, index);
    }
    return data;
}

static void end(roundel_work_t work) {
    OK(roundel_work_wait(work));
    OK(roundel_work_test(work));
    OK(roundel_work_free(work));
}

#define ALL(index, count, condition)                   \
    for (size_t index = 0; index < (count); index++) { \
        EXPECT(condition);                             \
    }

static void reductions(size_t count) {
    size_t blocks = (size_t)n * count;
    int64_t *in = mine(blocks), *out = room(blocks);
    roundel_work_t work = NULL;

    OK(roundel_all_reduce(in, out, count, ROUNDEL_INT64, ROUNDEL_SUM, comm));
    ALL(i, count, out[i] == sum(i));
    memcpy(out, in, count * sizeof *in);
    OK(roundel_all_reduce(out, out, count, ROUNDEL_INT64, ROUNDEL_MAX, comm));
    ALL(i, count, out[i] == value(n - 1, i));
    OK(roundel_all_reduce_async(in, out, count, ROUNDEL_INT64, ROUNDEL_MIN, comm, &work));
    end(work);
    ALL(i, count, out[i] == value(0, i));

    roundel_reduce_op_t weighted;
    int64_t factor = me + 2;
    OK(roundel_reduce_op_create_pre_mul_sum(&weighted, &factor, ROUNDEL_INT64));
    OK(roundel_all_reduce(in, out, count, ROUNDEL_INT64, weighted, comm));
    OK(roundel_reduce_op_destroy(weighted));
    for (size_t i = 0; i < count; i++) {
        int64_t expected = 0;
        for (int32_t rank = 0; rank < n; rank++) {
            expected += (rank + 2) * value(rank, i);
        }
        EXPECT(out[i] == expected);
    }

    for (int32_t root = 0; root < n; root++) {
        OK(roundel_reduce(in, me == root ? out : NULL, count, ROUNDEL_INT64, ROUNDEL_SUM, root, comm));
        if (me == root) {
            ALL(i, count, out[i] == sum(i));
        }
        OK(roundel_reduce_async(in, out, count, ROUNDEL_INT64, ROUNDEL_MAX, root, comm, &work));
        end(work);
        if (me == root) {
            ALL(i, count, out[i] == value(n - 1, i));
        }
    }

    OK(roundel_reduce_scatter(in, out, count, ROUNDEL_INT64, ROUNDEL_SUM, comm));
    ALL(i, count, out[i] == sum(me * count + i));
    memcpy(out, in, blocks * sizeof *in);
    OK(roundel_reduce_scatter_async(out, out + me * count, count, ROUNDEL_INT64, ROUNDEL_SUM, comm, &work));
    end(work);
    ALL(i, count, out[me * count + i] == sum(me * count + i));

    /* Block r has r halves of `count`. */
    size_t *counts = calloc((size_t)n, sizeof *counts), total = 0, before = 0;
    EXPECT(counts != NULL);
    for (int32_t rank = 0; rank < n; rank++) {
        counts[rank] = count * (size_t)rank / 2;
        before += rank < me ? counts[rank] : 0;
        total += counts[rank];
    }
    int64_t *uneven = mine(total), *block = room(total);
    OK(roundel_reduce_scatter_v(uneven, block, counts, ROUNDEL_INT64, ROUNDEL_SUM, comm));
    ALL(i, counts[me], block[i] == sum(before + i));
    OK(roundel_reduce_scatter_v_async(uneven, block, counts, ROUNDEL_INT64, ROUNDEL_MAX, comm, &work));
    end(work);
    ALL(i, counts[me], block[i] == value(n - 1, before + i));
    for (int pass = 0; pass < 2; pass++) {
        memset(block, 0, total * sizeof *block);
        if (pass == 0) {
            OK(roundel_all_gather_v(uneven, block, counts, ROUNDEL_INT64, comm));
        } else {
            OK(roundel_all_gather_v_async(uneven, block, counts, ROUNDEL_INT64, comm, &work));
            end(work);
        }
        size_t at = 0;
        for (int32_t rank = 0; rank < n; rank++) {
            ALL(i, counts[rank], block[at + i] == value(rank, i));
            at += counts[rank];
        }
    }
    free(counts), free(uneven), free(block), free(in), free(out);
}

static void exchanges(size_t count) {
    size_t blocks = (size_t)n * count;
    int64_t *in = mine(blocks), *out = room(blocks);
    roundel_work_t work = NULL;

    for (int32_t root = 0; root < n; root++) {
        OK(roundel_broadcast(me == root ? in : NULL, out, count, ROUNDEL_INT64, root, comm));
        ALL(i, count, out[i] == value(root, i));
        OK(roundel_broadcast_async(in, out, count, ROUNDEL_INT64, (root + 1) % n, comm, &work));
        end(work);
        ALL(i, count, out[i] == value((root + 1) % n, i));

        for (int pass = 0; pass < 2; pass++) {
            if (pass == 0) {
                OK(roundel_gather(in, me == root ? out : NULL, count, ROUNDEL_INT64, root, comm));
            } else {
                OK(roundel_gather_async(in, out, count, ROUNDEL_INT64, root, comm, &work));
                end(work);
            }
            if (me == root) {
                ALL(i, blocks, out[i] == value((int32_t)(i / count), i % count));
            }
        }
        for (int pass = 0; pass < 2; pass++) {
            memset(out, 0, blocks * sizeof *out);
            if (pass == 0) {
                OK(roundel_scatter(me == root ? in : NULL, out, count, ROUNDEL_INT64, root, comm));
            } else {
                OK(roundel_scatter_async(in, out, count, ROUNDEL_INT64, root, comm, &work));
                end(work);
            }
            ALL(i, count, out[i] == value(root, me * count + i));
        }
    }

    OK(roundel_all_gather(in, out, count, ROUNDEL_INT64, comm));
    ALL(i, blocks, out[i] == value((int32_t)(i / count), i % count));
    memset(out, 0, blocks * sizeof *out);
    memcpy(out + me * count, in, count * sizeof *in);
    OK(roundel_all_gather_async(out + me * count, out, count, ROUNDEL_INT64, comm, &work));
    end(work);
    ALL(i, blocks, out[i] == value((int32_t)(i / count), i % count));

    for (int pass = 0; pass < 2; pass++) {
        memcpy(out, in, blocks * sizeof *out);
        if (pass == 0) {
            OK(roundel_all_to_all(out, out, count, ROUNDEL_INT64, comm));
        } else {
            OK(roundel_all_to_all_async(in, out, count, ROUNDEL_INT64, comm, &work));
            end(work);
        }
        ALL(i, blocks, out[i] == value((int32_t)(i / count), me * count + i % count));
    }

    /* Rank a sends rank b a number of elements that only the two know. */
    size_t *counts = calloc(2 * (size_t)n, sizeof *counts), to_send = 0, to_recv = 0;
    EXPECT(counts != NULL);
    for (int32_t peer = 0; peer < n; peer++) {
        to_send += counts[peer] = (size_t)(me * 3 + peer * 5) % 7 * count / 7;
        to_recv += counts[n + peer] = (size_t)(peer * 3 + me * 5) % 7 * count / 7;
    }
    int64_t *uneven = room(to_send), *got = room(to_recv);
    size_t at = 0;
    for (int32_t peer = 0; peer < n; peer++) {
        for (size_t i = 0; i < counts[peer]; i++) {
            uneven[at++] = value(me, (size_t)peer + i);
        }
    }
    for (int pass = 0; pass < 2; pass++) {
        memset(got, 0, to_recv * sizeof *got);
        if (pass == 0) {
            OK(roundel_all_to_all_v(uneven, counts, got, counts + n, ROUNDEL_INT64, comm));
        } else {
            OK(roundel_all_to_all_v_async(uneven, counts, got, counts + n, ROUNDEL_INT64, comm, &work));
            end(work);
        }
        at = 0;
        for (int32_t peer = 0; peer < n; peer++) {
            for (size_t i = 0; i < counts[n + peer]; i++, at++) {
                EXPECT(got[at] == value(peer, (size_t)me + i));
            }
        }
    }
    free(counts), free(uneven), free(got), free(in), free(out);
}

static void messages(size_t count) {
    int64_t *in = mine(count), *out = room(count);
    int32_t right = (me + 1) % n, left = (me + n - 1) % n;
    roundel_work_t sent, received;

    OK(roundel_sendrecv(in, count, right, out, count, left, ROUNDEL_INT64, comm));
    ALL(i, count, out[i] == value(left, i));
    memset(out, 0, count * sizeof *out);
    OK(roundel_sendrecv_async(in, count, me, out, count, me, ROUNDEL_INT64, comm, &sent));
    end(sent);
    ALL(i, count, out[i] == value(me, i));

    if (n > 1) {
        OK(roundel_recv_async(out, count, ROUNDEL_INT64, right, comm, &received));
        OK(roundel_send_async(in, count, ROUNDEL_INT64, left, comm, &sent));
        end(sent), end(received);
        ALL(i, count, out[i] == value(right, i));
    }

    /* Pairs: the even rank speaks first. */
    int32_t partner = me ^ 1;
    if (partner < n) {
        for (int turn = 0; turn < 2; turn++) {
            if (me % 2 == turn) {
                OK(roundel_send(in, count, ROUNDEL_INT64, partner, comm));
            } else {
                OK(roundel_recv(out, count, ROUNDEL_INT64, partner, comm));
                ALL(i, count, out[i] == value(partner, i));
            }
        }
    }
    free(in), free(out);
}

static void groups(size_t count) {
    int64_t *in = mine(count), *from_left = room(count), *reduced = room(count), *to_self = room(count);
    int32_t right = (me + 1) % n, left = (me + n - 1) % n;
    for (int pass = 0; pass < 2; pass++) {
        memset(from_left, 0, count * sizeof *in), memset(reduced, 0, count * sizeof *in);
        OK(roundel_group_start());
        OK(roundel_send(in, count, ROUNDEL_INT64, right, comm));
        OK(roundel_group_start());
        OK(roundel_recv(from_left, count, ROUNDEL_INT64, left, comm));
        OK(roundel_group_end());
        OK(roundel_recv(to_self, count, ROUNDEL_INT64, me, comm));
        OK(roundel_send(in, count, ROUNDEL_INT64, me, comm));
        OK(roundel_all_reduce(in, reduced, count, ROUNDEL_INT64, ROUNDEL_SUM, comm));
        EXPECT(count == 0 || reduced[0] == 0 || sum(0) == 0);
        if (pass == 0) {
            OK(roundel_group_end());
        } else {
            roundel_work_t work;
            OK(roundel_group_end_async(&work));
            end(work);
        }
        ALL(i, count, from_left[i] == value(left, i));
        ALL(i, count, to_self[i] == value(me, i));
        ALL(i, count, reduced[i] == sum(i));
    }
    /* A cancelled group leaves no trace. */
    OK(roundel_group_start());
    OK(roundel_broadcast(in, in, count, ROUNDEL_INT64, 0, comm));
    OK(roundel_group_cancel());
    free(in), free(from_left), free(reduced), free(to_self);
}

static void splits(void) {
    roundel_comm_t part, none;
    int32_t rank, world, one = 1, host;
    const char *transport;
    OK(roundel_comm_split(comm, me % 2, -me, &part));
    OK(roundel_comm_rank(part, &rank));
    OK(roundel_comm_world(part, &world));
    EXPECT(world == (n + 1 - me % 2) / 2 && rank == world - 1 - me / 2);
    OK(roundel_all_reduce(&one, &one, 1, ROUNDEL_INT32, ROUNDEL_SUM, part));
    EXPECT(one == world);
    OK(roundel_comm_destroy(part));
    OK(roundel_comm_split(comm, me == 0 ? 0 : -1, 0, &none));
    EXPECT((none != NULL) == (me == 0));
    if (none != NULL) {
        OK(roundel_comm_destroy(none));
    }
    int32_t backwards[64];
    EXPECT(n <= 64);
    for (int32_t i = 0; i < n; i++) {
        backwards[i] = n - 1 - i;
    }
    OK(roundel_comm_subset(comm, backwards, (size_t)n, &part));
    OK(roundel_comm_rank(part, &rank));
    EXPECT(rank == n - 1 - me);
    OK(roundel_comm_destroy(part));
    OK(roundel_comm_host_of(comm, n - 1, &host));
    OK(roundel_comm_transport(comm, &transport));
    EXPECT(host >= 0 && strlen(transport) > 0);
}

static void mapped_memory(size_t count) {
    float *data;
    OK(roundel_alloc((void **)&data, count * sizeof *data, comm));
    EXPECT((uintptr_t)data % 64 == 0);
    for (size_t i = 0; i < count; i++) {
        EXPECT(data[i] == 0);
        data[i] = (float)me;
    }
    OK(roundel_all_reduce(data, data, count, ROUNDEL_FLOAT32, ROUNDEL_AVG, comm));
    ALL(i, count, data[i] == (float)(n - 1) / 2);
    OK(roundel_free(data));
}

static void words(void) {
    char small[8], *text;
    size_t need = 0, size = 0;
    OK(roundel_explain(ROUNDEL_COLLECTIVE_ALL_REDUCE, 1 << 20, ROUNDEL_FLOAT32, ROUNDEL_SUM, 0, true, false, NULL, 0,
                       &need, comm));
    OK(roundel_explain(ROUNDEL_COLLECTIVE_ALL_REDUCE, 1 << 20, ROUNDEL_FLOAT32, ROUNDEL_SUM, 0, true, false, small,
                       sizeof small, NULL, comm));
    EXPECT(need > sizeof small && strlen(small) == sizeof small - 1);
    text = calloc(need + 1, 1);
    EXPECT(text != NULL);
    OK(roundel_explain(ROUNDEL_COLLECTIVE_ALL_REDUCE, 1 << 20, ROUNDEL_FLOAT32, ROUNDEL_SUM, 0, true, false, text,
                       need + 1, &need, comm));
    EXPECT(strlen(text) == need && strncmp(text, small, 7) == 0 && strstr(text, "rank") != NULL);
    free(text);
    OK(roundel_dtype_size(ROUNDEL_BFLOAT16, &size));
    EXPECT(size == 2 && roundel_version() == ROUNDEL_VERSION && strchr(roundel_version_string(), '.') != NULL);
}

int main(int argc, char **argv) {
    size_t count = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
    roundel_options_t options;
    OK(roundel_options_create(&options));
    OK(roundel_options_set(options, "timeout_ms", "90000"));
    OK(roundel_init(&comm, options));
    OK(roundel_options_destroy(options));
    OK(roundel_comm_rank(comm, &me));
    OK(roundel_comm_world(comm, &n));
    for (int pass = 0; pass < 2; pass++) {
        reductions(count);
        exchanges(count);
        messages(count);
        groups(count);
        mapped_memory(count);
        count = 3;
    }
    splits();
    words();
    roundel_work_t work;
    OK(roundel_barrier_async(comm, &work));
    while (roundel_work_wait_for(work, 20) == ROUNDEL_IN_PROGRESS) {
    }
    end(work);
    OK(roundel_barrier(comm));
    OK(roundel_comm_status(comm));
    OK(roundel_comm_destroy(comm));
    say("passed");
    return 0;
}
