/* Ranks in one process: threads of one rank each, threads of two, one thread for all. threads RANKS */
#include "exercise.h"
#include <pthread.h>

struct part {
    pthread_t thread;
    ncclUniqueId id;
    struct job job;
};

static void *speak(void *argument) {
    struct part *part = argument;
    OK(ncclGroupStart());
    for (int i = 0; i < part->job.local; i++)
        OK(ncclCommInitRank(&part->job.comm[i], part->job.ranks, part->id, part->job.rank[i]));
    OK(ncclGroupEnd());
    exercise(&part->job);
    exercise_splits(&part->job);
    for (int i = 0; i < part->job.local; i++) OK(ncclCommDestroy(part->job.comm[i]));
    return NULL;
}

int main(int argc, char **argv) {
    HOLDS(argc == 2);
    const int ranks = atoi(argv[1]);
    for (int each = 1; each <= ranks; each *= 2) {
        struct part parts[MOST_RANKS];
        ncclUniqueId id;
        OK(ncclGetUniqueId(&id));
        for (int first = 0; first < ranks; first += each) {
            struct part *part = &parts[first];
            *part = (struct part){.id = id, .job = {.ranks = ranks}};
            for (int rank = first; rank < first + each && rank < ranks; rank++) part->job.rank[part->job.local++] = rank;
            HOLDS(pthread_create(&part->thread, NULL, speak, part) == 0);
        }
        for (int first = 0; first < ranks; first += each) HOLDS(pthread_join(parts[first].thread, NULL) == 0);
    }

    /* As nccl-tests -g does: all ranks in one thread, here on one device. */
    struct job all = {.ranks = ranks, .local = ranks};
    const int device[MOST_RANKS] = {0};
    OK(ncclCommInitAll(all.comm, ranks, device));
    for (int rank = 0; rank < ranks; rank++) {
        int number;
        all.rank[rank] = rank;
        OK(ncclCommCuDevice(all.comm[rank], &number));
        HOLDS(number == 0);
    }
    exercise(&all);
    exercise_splits(&all);

    /* All ranks but the second, which takes no part and knows nothing. */
    if (ranks > 2) {
        struct job rest = {.ranks = ranks - 1};
        int excluded = 1;
        OK(ncclGroupStart());
        for (int rank = 0; rank < ranks; rank++)
            if (rank != excluded) {
                rest.rank[rest.local] = rest.local;
                OK(ncclCommShrink(all.comm[rank], &excluded, 1, &rest.comm[rest.local], NULL, 0));
                rest.local++;
            }
        OK(ncclGroupEnd());
        exercise(&rest);
        for (int i = 0; i < rest.local; i++) OK(ncclCommDestroy(rest.comm[i]));
        exercise(&all);
    }
    for (int rank = 0; rank < ranks; rank++) OK(ncclCommDestroy(all.comm[rank]));
    printf("@@right\n");
    return 0;
}
