/* A rank that lives through the deaths of others, and takes in whoever comes in their place, until it is killed or has seen
 * as many changes as its argument says. It joins a job that runs where ROUNDEL_TEST_INVITATION says so, and one that begins
 * where ROUNDEL_UNIQUE_ID does; without either it is rank 0, and the job begins in this process. */
#include "expect.h"

#include <string.h>

enum { COUNT = 1 << 16, WORLD = 4 };

/* Every element is the sum of what just the members give, one bit each. */
static void right(const int64_t *data, const int32_t *members, int32_t world) {
    int64_t sum = 0;
    for (int32_t rank = 0; rank < world; rank++) {
        sum += INT64_C(1) << members[rank];
    }
    for (int i = 0; i < COUNT; i++) {
        EXPECT(data[i] == sum);
    }
}

static roundel_comm_t begin(void) {
    const char *invitation = getenv("ROUNDEL_TEST_INVITATION");
    roundel_comm_t comm;
    if (invitation != NULL) {
        OK(roundel_enlist(&comm, invitation, NULL));
    } else if (getenv("ROUNDEL_UNIQUE_ID") != NULL) {
        OK(roundel_init(&comm, NULL));
    } else {
        roundel_unique_id_t id;
        char text[ROUNDEL_UNIQUE_ID_TEXT_BYTES];
        OK(roundel_unique_id_create(&id));
        OK(roundel_unique_id_format(id, text, sizeof text));
        printf("\n@@id %s\n", text);
        fflush(stdout);
        const char *world = getenv("SURVIVOR_BEGINS_WITH");
        OK(roundel_comm_init_rank(&comm, world != NULL ? (int32_t)strtol(world, NULL, 10) : WORLD, id, 0, NULL));
    }
    return comm;
}

static void tell(roundel_comm_t comm) {
    char invitation[ROUNDEL_INVITATION_TEXT_BYTES];
    int32_t world, epoch, members[16];
    OK(roundel_comm_world(comm, &world));
    OK(roundel_comm_epoch(comm, &epoch));
    OK(roundel_comm_members(comm, members, 16));
    OK(roundel_invitation(comm, invitation, sizeof invitation));
    printf("\n@@members %d ", epoch);
    for (int32_t rank = 0; rank < world; rank++) {
        printf(rank == 0 ? "%d" : ",%d", members[rank]);
    }
    printf(" %s\n", invitation);
    fflush(stdout);
}

int main(int argc, char **argv) {
    static int64_t data[COUNT], kept[COUNT];
    roundel_comm_t comm = begin(), next;
    int32_t rank, world, members[16];
    long changes = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
    tell(comm);
    while (changes > 0) {
        roundel_result_t result;
        bool all = false;
        OK(roundel_comm_rank(comm, &rank));
        OK(roundel_comm_world(comm, &world));
        OK(roundel_comm_members(comm, members, 16));
        for (int i = 0; i < COUNT; i++) {
            data[i] = kept[i] = INT64_C(1) << members[rank];
        }
        next = NULL;
        result = roundel_all_reduce_preserving(data, COUNT, ROUNDEL_INT64, ROUNDEL_SUM, comm);
        if (result == ROUNDEL_SUCCESS) {
            right(data, members, world);
            result = roundel_agree(comm, true, &all);
        } else {
            EXPECT(memcmp(data, kept, sizeof data) == 0);
        }
        if (result == ROUNDEL_SUCCESS && all && world < WORLD) {
            result = roundel_grow(comm, &next);
        }
        if (result == ROUNDEL_SUCCESS && all && next == NULL) {
            continue;
        }
        if (next == NULL) {
            /* Or another rank has already heard of a death, and agrees to nothing. */
            EXPECT(result == ROUNDEL_ERROR_PEER_LOST || (result == ROUNDEL_SUCCESS && !all));
            EXPECT(result == ROUNDEL_SUCCESS || strstr(roundel_last_error(), "rank ") != NULL);
            OK(roundel_shrink(comm, &next));
        }
        OK(roundel_comm_destroy(comm));
        comm = next;
        changes--;
        tell(comm);
    }
    /* The others still count on this one until they have seen as many changes. */
    OK(roundel_barrier(comm));
    OK(roundel_comm_destroy(comm));
    say("passed");
    return 0;
}
