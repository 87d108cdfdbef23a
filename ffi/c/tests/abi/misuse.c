/* What a program can do wrong with roundel.h, and the error that each gets. Nothing of it may crash, hang, or do harm to
 * the communicator, which is used after each. */
#include "expect.h"

#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

/* What other languages rely on. */
_Static_assert(sizeof(roundel_unique_id_t) == 128, "as long as NCCL's");
_Static_assert(sizeof(roundel_comm_t) == 8 && sizeof(roundel_dtype_t) == 4 && sizeof(roundel_reduce_op_t) == 4, "sizes");
_Static_assert(offsetof(roundel_error_details_t, ranks) == 48 && offsetof(roundel_error_details_t, buffer) == 64 &&
                   sizeof(roundel_error_details_t) == 88,
               "grows at its end");

static roundel_comm_t ranks[2];
static float data[64];

/* One good collective of both ranks, from one thread. */
static void still_works(void) {
    int32_t one[2] = {1, 1};
    OK(roundel_group_start());
    OK(roundel_all_reduce(&one[0], &one[0], 1, ROUNDEL_INT32, ROUNDEL_SUM, ranks[0]));
    OK(roundel_all_reduce(&one[1], &one[1], 1, ROUNDEL_INT32, ROUNDEL_SUM, ranks[1]));
    OK(roundel_group_end());
    EXPECT(one[0] == 2 && one[1] == 2);
}

static void refused(const char *call, roundel_result_t got, roundel_result_t want, const char *words) {
    roundel_error_details_t details = {.size = sizeof details};
    const char *name_end = strchr(call, '(');
    OK(roundel_last_error_details(&details));
    if (got != want || strstr(roundel_last_error(), words) == NULL || details.code != want ||
        strncmp(details.function, call, (size_t)(name_end - call)) != 0 || strcmp(details.message, roundel_last_error())) {
        fprintf(stderr, "%s\n  gave %d (%s), expected %d with \"%s\"\n", call, got, roundel_last_error(), want, words);
        exit(1);
    }
    printf("%-24s %s\n", roundel_result_string(got), roundel_last_error());
    still_works();
}

#define REFUSED(call, code, words) refused(#call, call, ROUNDEL_ERROR_##code, words)
#define ARGUMENT(call, words) REFUSED(call, INVALID_ARGUMENT, words)
#define HANDLE(call, words) REFUSED(call, INVALID_HANDLE, words)

#define F32 ROUNDEL_FLOAT32
#define SUM ROUNDEL_SUM

static void null_pointers(roundel_comm_t comm) {
    ARGUMENT(roundel_init(NULL, NULL), "comm is NULL");
    ARGUMENT(roundel_comm_init_threads(NULL, 2, NULL), "comms is NULL");
    ARGUMENT(roundel_unique_id_create(NULL), "id is NULL");
    ARGUMENT(roundel_unique_id_parse(NULL, NULL), "text is NULL");
    ARGUMENT(roundel_options_create(NULL), "options is NULL");
    ARGUMENT(roundel_comm_rank(comm, NULL), "rank is NULL");
    ARGUMENT(roundel_comm_transport(comm, NULL), "transport is NULL");
    ARGUMENT(roundel_comm_split(comm, 0, 0, NULL), "part is NULL");
    ARGUMENT(roundel_comm_subset(comm, NULL, 1, &comm), "ranks is NULL");
    ARGUMENT(roundel_comm_subset(comm, (int32_t[]){-1}, 1, &comm), "rank -1");
    ARGUMENT(roundel_comm_subset(comm, (int32_t[]){0, 0}, 1000, &comm), "1000 ranks of a world");
    ARGUMENT(roundel_comm_epoch(comm, NULL), "epoch is NULL");
    ARGUMENT(roundel_comm_members(comm, NULL, 2), "members is NULL");
    ARGUMENT(roundel_comm_members(comm, (int32_t *)data, 1), "room for 1 members of 2");
    ARGUMENT(roundel_shrink(comm, NULL), "rest is NULL");
    ARGUMENT(roundel_agree(comm, true, NULL), "all is NULL");
    ARGUMENT(roundel_invitation(comm, NULL, ROUNDEL_INVITATION_TEXT_BYTES), "text is NULL");
    ARGUMENT(roundel_invitation(comm, (char *)data, 20), "text has 20 bytes, this invitation needs");
    ARGUMENT(roundel_enlist(NULL, "0123", NULL), "comm is NULL");
    ARGUMENT(roundel_enlist(&comm, NULL, NULL), "invitation is NULL");
    ARGUMENT(roundel_grow(comm, NULL), "grown is NULL");
    ARGUMENT(roundel_all_reduce_preserving(NULL, 4, F32, SUM, comm), "send is NULL");
    ARGUMENT(roundel_all_reduce(NULL, data, 4, F32, SUM, comm), "send is NULL");
    ARGUMENT(roundel_all_reduce(data, NULL, 4, F32, SUM, comm), "recv is NULL");
    ARGUMENT(roundel_all_gather_v(data, data, NULL, F32, comm), "counts is NULL");
    ARGUMENT(roundel_all_to_all_v(data, NULL, data, NULL, F32, comm), "send_counts is NULL");
    ARGUMENT(roundel_barrier_async(comm, NULL), "work is NULL");
    ARGUMENT(roundel_alloc(NULL, 100, comm), "memory is NULL");
    ARGUMENT(roundel_reduce_op_create_pre_mul_sum(NULL, data, F32), "op is NULL");
    ARGUMENT(roundel_last_error_details(NULL), "details is NULL");
    ARGUMENT(roundel_dtype_size(F32, NULL), "size_bytes is NULL");
    ARGUMENT(roundel_explain(0, 1, F32, SUM, 0, false, false, NULL, 9, NULL, comm), "text is NULL");
    OK(roundel_free(NULL));
    HANDLE(roundel_comm_abort(NULL, NULL), "the communicator is NULL");
    HANDLE(roundel_comm_destroy(NULL), "the communicator is NULL");
    HANDLE(roundel_barrier(NULL), "the communicator is NULL");
    HANDLE(roundel_shrink(NULL, &comm), "the communicator is NULL");
    HANDLE(roundel_grow(NULL, &comm), "the communicator is NULL");
    HANDLE(roundel_all_reduce_preserving(data, 4, F32, SUM, NULL), "the communicator is NULL");
    HANDLE(roundel_work_wait(NULL), "the work is NULL");
    HANDLE(roundel_options_set(NULL, "algo", "ring"), "the options object is NULL");
}

static void wrong_enumerators(roundel_comm_t comm) {
    ARGUMENT(roundel_all_reduce(data, data, 4, 12, SUM, comm), "no element type 12");
    ARGUMENT(roundel_all_reduce(data, data, 4, -1, SUM, comm), "no element type -1");
    ARGUMENT(roundel_all_reduce(data, data, 4, INT_MIN, SUM, comm), "no element type");
    ARGUMENT(roundel_all_reduce(data, data, 4, 256 + F32, SUM, comm), "no element type 263");
    ARGUMENT(roundel_all_reduce(data, data, 4, F32, 5, comm), "no reduction 5");
    ARGUMENT(roundel_all_reduce(data, data, 4, F32, -7, comm), "no reduction -7");
    ARGUMENT(roundel_all_reduce(data, data, 4, F32, 9999, comm), "no reduction 9999");
    ARGUMENT(roundel_all_reduce(data, data, 4, F32, ROUNDEL_BIT_OR, comm), "integers");
    ARGUMENT(roundel_all_reduce_preserving(data, 4, 12, SUM, comm), "no element type 12");
    ARGUMENT(roundel_all_reduce_preserving(data, 4, F32, ROUNDEL_BIT_OR, comm), "integers");
    ARGUMENT(roundel_explain(10, 1, F32, SUM, 0, false, false, NULL, 0, NULL, comm), "no collective 10");
    ARGUMENT(roundel_explain(1, 1, F32, SUM, 2, false, false, NULL, 0, NULL, comm), "root 2 in a world of 2");
    ARGUMENT(roundel_explain(0, SIZE_MAX / 2, F32, SUM, 0, false, false, NULL, 0, NULL, comm), "overflow");
    EXPECT(strcmp(roundel_result_string(-3), "unknown result") == 0);
}

static void wrong_numbers(roundel_comm_t comm) {
    size_t huge[2] = {SIZE_MAX, 2}, unlike[2] = {1, 2}, alike[2] = {2, 2};
    ARGUMENT(roundel_all_reduce(data, data, SIZE_MAX / 2, F32, SUM, comm), "overflows");
    ARGUMENT(roundel_all_gather(data, data, SIZE_MAX / 4 - 1, F32, comm), "overflows");
    ARGUMENT(roundel_all_reduce_preserving(data, SIZE_MAX / 2, F32, SUM, comm), "overflows");
    ARGUMENT(roundel_all_reduce_preserving((char *)data + 1, 4, F32, SUM, comm), "not aligned");
    ARGUMENT(roundel_reduce_scatter_v(data, data, huge, F32, SUM, comm), "overflows");
    ARGUMENT(roundel_all_to_all_v(data, unlike, data + 32, alike, F32, comm), "sends itself 1 elements but expects 2");
    ARGUMENT(roundel_broadcast(data, data, 4, F32, 2, comm), "root 2 in a world of 2");
    ARGUMENT(roundel_broadcast(data, data, 4, F32, -1, comm), "root is -1");
    ARGUMENT(roundel_send(data, 4, F32, 7, comm), "peer 7 in a world of 2");
    ARGUMENT(roundel_recv(data, 4, F32, -2, comm), "peer is -2");
    ARGUMENT(roundel_send(data, 4, F32, 0, comm), "one group");
    ARGUMENT(roundel_recv(data, 4, F32, 0, comm), "one group");
    ARGUMENT(roundel_all_reduce((char *)data + 1, (char *)data + 1, 4, F32, SUM, comm), "not aligned");
    ARGUMENT(roundel_all_reduce(data, data + 2, 4, F32, SUM, comm), "overlap");
    ARGUMENT(roundel_all_reduce((void *)(UINTPTR_MAX - 7), data, 4, F32, SUM, comm), "past the end of memory");
    ARGUMENT(roundel_comm_rank(comm, (int32_t *)((char *)data + 1)), "misaligned");
    ARGUMENT(roundel_comm_split(comm, -5, 0, &comm), "color -5");
    ARGUMENT(roundel_comm_host_of(comm, 2, (int32_t *)data), "rank 2 in a world of 2");
    ARGUMENT(roundel_alloc((void **)data, SIZE_MAX, comm), "overflow");
    ARGUMENT(roundel_free(data), "not from roundel_alloc");
    roundel_work_t work;
    OK(roundel_send_async(data, 1, F32, 1, comm, &work));
    ARGUMENT(roundel_work_wait_for(work, -1), "-1 ms");
    OK(roundel_recv(data, 1, F32, 0, ranks[1]));
    OK(roundel_work_free(work));
}

static void worlds_that_cannot_be(void) {
    roundel_comm_t comm = NULL, many[2];
    roundel_unique_id_t id, broken;
    char text[ROUNDEL_UNIQUE_ID_TEXT_BYTES];
    OK(roundel_unique_id_create(&id));
    OK(roundel_unique_id_format(id, text, sizeof text));
    OK(roundel_unique_id_parse(text, &broken));
    EXPECT(memcmp(&id, &broken, sizeof id) == 0);
    broken.bytes[40] ^= 1;
    ARGUMENT(roundel_comm_init_rank(&comm, 1, broken, 0, NULL), "damaged");
    ARGUMENT(roundel_comm_init_rank(&comm, 0, id, 0, NULL), "a world of 0");
    ARGUMENT(roundel_comm_init_rank(&comm, -4, id, 0, NULL), "a world of -4");
    ARGUMENT(roundel_comm_init_rank(&comm, 2, id, 2, NULL), "rank 2");
    ARGUMENT(roundel_comm_init_rank(&comm, 2, id, -1, NULL), "rank is -1");
    ARGUMENT(roundel_comm_init_threads(many, 0, NULL), "a world of 0");
    ARGUMENT(roundel_unique_id_format(id, text, 256), "256 bytes, an id needs 257");
    ARGUMENT(roundel_unique_id_parse("0123", &id), "2 bytes instead of 128");
    ARGUMENT(roundel_unique_id_parse("hello", &id), "256 hexadecimal digits");
    ARGUMENT(roundel_unique_id_parse("\xff\xfe", &id), "not UTF-8");
    EXPECT(comm == NULL);

    char invitation[ROUNDEL_INVITATION_TEXT_BYTES];
    OK(roundel_invitation(ranks[1], invitation, sizeof invitation));
    EXPECT(strlen(invitation) < sizeof invitation);
    invitation[10] = invitation[10] == '0' ? '1' : '0';
    ARGUMENT(roundel_enlist(&comm, invitation, NULL), "damaged on its way");
    ARGUMENT(roundel_enlist(&comm, "", NULL), "not an invitation");
    ARGUMENT(roundel_enlist(&comm, "come in", NULL), "hexadecimal digits");
    ARGUMENT(roundel_enlist(&comm, "\xff\xfe", NULL), "not UTF-8");
    EXPECT(comm == NULL);
    /* Nobody was invited. */
    OK(roundel_comm_init_threads(&comm, 1, NULL));
    OK(roundel_all_reduce_preserving(data, 4, F32, SUM, comm));
    many[0] = comm;
    OK(roundel_grow(comm, &many[0]));
    EXPECT(many[0] == NULL);
    OK(roundel_comm_destroy(comm));
}

static void options_that_are_none(void) {
    roundel_options_t options;
    roundel_comm_t comm;
    OK(roundel_options_create(&options));
    ARGUMENT(roundel_options_set(options, "speed", "fast"), "no setting \"speed\"");
    ARGUMENT(roundel_options_set(options, "algo", "fastest"), "ROUNDEL_ALGO");
    ARGUMENT(roundel_options_set(options, "channels", "0"), "channels");
    ARGUMENT(roundel_options_set(options, NULL, "1"), "name is NULL");
    ARGUMENT(roundel_options_set(options, "channels", NULL), "value is NULL");
    OK(roundel_options_set(options, "channels", "2"));
    HANDLE(roundel_init(&comm, (roundel_options_t)ranks[0]), "not a");
    OK(roundel_options_destroy(options));
    HANDLE(roundel_options_destroy(options), "destroyed before");
    HANDLE(roundel_init(&comm, options), "destroyed before");
}

static void dead_handles(void) {
    roundel_comm_t gone[2];
    roundel_work_t work, other;
    roundel_reduce_op_t op;
    float factor = 2;
    void *memory;
    OK(roundel_comm_init_threads(gone, 2, NULL));
    OK(roundel_comm_destroy(gone[1]));
    OK(roundel_comm_destroy(gone[0]));
    HANDLE(roundel_comm_destroy(gone[0]), "destroyed before");
    HANDLE(roundel_all_reduce(data, data, 4, F32, SUM, gone[0]), "destroyed before");
    HANDLE(roundel_comm_status(gone[1]), "destroyed before");
    HANDLE(roundel_barrier_async(gone[1], &work), "destroyed before");
    HANDLE(roundel_alloc(&memory, 100, gone[1]), "destroyed before");
    HANDLE(roundel_shrink(gone[0], &gone[1]), "destroyed before");
    HANDLE(roundel_agree(gone[0], true, (bool *)data), "destroyed before");
    /* Its place has a new owner, whom the old handle does not name. */
    roundel_comm_t again[2];
    OK(roundel_comm_init_threads(again, 2, NULL));
    HANDLE(roundel_barrier(gone[0]), "destroyed before");
    OK(roundel_comm_destroy(again[0]));
    OK(roundel_comm_destroy(again[1]));
    HANDLE(roundel_barrier((roundel_comm_t)data), "is not a communicator");
    HANDLE(roundel_barrier((roundel_comm_t)(uintptr_t)0x12345678901), "is not a communicator");
    HANDLE(roundel_barrier((roundel_comm_t)(uintptr_t)UINTPTR_MAX), "is not a communicator");

    OK(roundel_barrier_async(ranks[0], &work));
    OK(roundel_barrier_async(ranks[1], &other));
    HANDLE(roundel_barrier((roundel_comm_t)work), "is not a communicator");
    OK(roundel_work_wait(work));
    OK(roundel_work_wait(work));
    OK(roundel_work_free(work));
    OK(roundel_work_free(other));
    HANDLE(roundel_work_free(work), "destroyed before");
    HANDLE(roundel_work_test(work), "destroyed before");
    HANDLE(roundel_work_wait(work), "destroyed before");
    HANDLE(roundel_work_wait_for(work, 1), "destroyed before");
    HANDLE(roundel_work_wait((roundel_work_t)ranks[0]), "is not a work");

    OK(roundel_reduce_op_create_pre_mul_sum(&op, &factor, F32));
    ARGUMENT(roundel_all_reduce(data, data, 4, ROUNDEL_FLOAT64, op, ranks[0]), "its factor is of type float");
    OK(roundel_reduce_op_destroy(op));
    ARGUMENT(roundel_reduce_op_destroy(op), "destroyed before");
    ARGUMENT(roundel_all_reduce(data, data, 4, F32, op, ranks[0]), "destroyed before");
    ARGUMENT(roundel_reduce_op_destroy(ROUNDEL_SUM), "was not made");

    OK(roundel_alloc(&memory, 100, ranks[0]));
    ARGUMENT(roundel_free((char *)memory + 64), "not from roundel_alloc");
    OK(roundel_free(memory));
    ARGUMENT(roundel_free(memory), "freed before");
}

static void groups_that_go_wrong(void) {
    roundel_work_t work;
    ARGUMENT(roundel_group_end(), "no group is open");
    ARGUMENT(roundel_group_end_async(&work), "no group is open");
    ARGUMENT(roundel_group_cancel(), "no group is open");

    /* One call is refused: it says so itself, and the group runs none. */
    float before = data[0] = 3;
    OK(roundel_group_start());
    OK(roundel_all_reduce(data, data, 1, F32, SUM, ranks[0]));
    EXPECT(roundel_all_reduce(NULL, data, 1, F32, SUM, ranks[0]) == ROUNDEL_ERROR_INVALID_ARGUMENT);
    OK(roundel_all_reduce(data + 8, data + 8, 1, F32, SUM, ranks[1]));
    ARGUMENT(roundel_group_end(), "send is NULL");
    EXPECT(data[0] == before);

    /* The library refuses one: likewise, though only the end can tell. */
    OK(roundel_group_start());
    OK(roundel_all_reduce(data, data, 1, F32, SUM, ranks[0]));
    OK(roundel_all_reduce(data + 8, data + 8, 1, F32, ROUNDEL_BIT_AND, ranks[1]));
    ARGUMENT(roundel_group_end(), "integers");
    EXPECT(data[0] == before);

    OK(roundel_group_start());
    OK(roundel_send(data, 1, F32, 0, ranks[0]));
    ARGUMENT(roundel_group_end(), "1 sends to this rank itself but 0 receives");

    OK(roundel_group_start());
    EXPECT(roundel_barrier_async(ranks[0], &work) == ROUNDEL_ERROR_INVALID_ARGUMENT);
    ARGUMENT(roundel_group_end(), "a nonblocking call inside a group");

    roundel_comm_t part;
    OK(roundel_group_start());
    EXPECT(roundel_comm_split(ranks[0], 0, 0, &part) == ROUNDEL_ERROR_INVALID_ARGUMENT);
    ARGUMENT(roundel_group_end(), "a split inside a group");

    OK(roundel_group_start());
    EXPECT(roundel_shrink(ranks[0], &part) == ROUNDEL_ERROR_INVALID_ARGUMENT);
    ARGUMENT(roundel_group_end(), "a shrink inside a group");
    OK(roundel_group_start());
    EXPECT(roundel_grow(ranks[0], &part) == ROUNDEL_ERROR_INVALID_ARGUMENT);
    ARGUMENT(roundel_group_end(), "a growth inside a group");
    OK(roundel_group_start());
    EXPECT(roundel_all_reduce_preserving(data, 1, F32, SUM, ranks[0]) == ROUNDEL_ERROR_INVALID_ARGUMENT);
    ARGUMENT(roundel_group_end(), "a preserving call inside a group");

    OK(roundel_group_start());
    OK(roundel_group_start());
    EXPECT(roundel_group_end_async(&work) == ROUNDEL_ERROR_INVALID_ARGUMENT);
    OK(roundel_group_cancel());
    ARGUMENT(roundel_group_end(), "inside this one was cancelled");
}

static void details_of_every_size(void) {
    struct {
        roundel_error_details_t known;
        char beyond[16];
    } room;
    EXPECT(roundel_broadcast(data, data, 4, F32, 2, ranks[1]) == ROUNDEL_ERROR_INVALID_ARGUMENT);
    memset(&room, 0x55, sizeof room);
    /* A program of a later version, with a longer struct: what we do not know stays as it is. */
    room.known.size = sizeof room;
    OK(roundel_last_error_details(&room.known));
    EXPECT(room.known.rank == 1 && room.known.size == sizeof room && room.beyond[0] == 0x55);
    EXPECT(room.known.collective == ROUNDEL_COLLECTIVE_NONE && room.known.rank_count == 0);
    EXPECT(room.known.buffer == ROUNDEL_BUFFER_INTACT && room.known.total_bytes == 0);
    /* A program of an earlier one. */
    memset(&room, 0x55, sizeof room);
    room.known.size = offsetof(roundel_error_details_t, collective);
    OK(roundel_last_error_details(&room.known));
    EXPECT(room.known.rank == 1 && room.known.collective == 0x55555555);
    room.known.size = 7;
    EXPECT(roundel_last_error_details(&room.known) == ROUNDEL_ERROR_INVALID_ARGUMENT);
}

static void *knows_nothing(void *unused) {
    EXPECT(strcmp(roundel_last_error(), "") == 0);
    return unused;
}

static void *asks(void *unused) {
    int32_t rank;
    roundel_result_t result;
    while ((result = roundel_comm_rank(ranks[0], &rank)) == ROUNDEL_SUCCESS) {
    }
    EXPECT(result == ROUNDEL_ERROR_INVALID_HANDLE);
    return unused;
}

static void *destroys(void *unused) {
    OK(roundel_comm_destroy(ranks[0]));
    return unused;
}

/* A communicator is destroyed while it is being used: what is in flight ends as it should, what comes later is refused. */
static void several_threads(void) {
    pthread_t threads[4];
    roundel_work_t work;
    float got = 0, sent = 7;
    EXPECT(roundel_barrier(NULL) == ROUNDEL_ERROR_INVALID_HANDLE);
    EXPECT(pthread_create(&threads[0], NULL, knows_nothing, NULL) == 0);
    EXPECT(pthread_join(threads[0], NULL) == 0);

    OK(roundel_recv_async(&got, 1, F32, 1, ranks[0], &work));
    EXPECT(roundel_work_test(work) == ROUNDEL_IN_PROGRESS);
    for (int i = 0; i < 4; i++) {
        EXPECT(pthread_create(&threads[i], NULL, i < 3 ? asks : destroys, NULL) == 0);
    }
    OK(roundel_send(&sent, 1, F32, 0, ranks[1]));
    for (int i = 0; i < 4; i++) {
        EXPECT(pthread_join(threads[i], NULL) == 0);
    }
    OK(roundel_work_wait(work));
    EXPECT(got == 7);
    OK(roundel_work_free(work));
    OK(roundel_comm_destroy(ranks[1]));
}

int main(void) {
    OK(roundel_comm_init_threads(ranks, 2, NULL));
    still_works();
    null_pointers(ranks[0]);
    wrong_enumerators(ranks[0]);
    wrong_numbers(ranks[0]);
    worlds_that_cannot_be();
    options_that_are_none();
    dead_handles();
    groups_that_go_wrong();
    details_of_every_size();
    several_threads();
    say("passed");
    return 0;
}
