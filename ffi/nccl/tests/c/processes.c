/* One rank of several processes. The id goes from rank 0 to the others through a file.
   processes RANK RANKS FILE plain|config|nonblocking|scalable */
#include "exercise.h"

int main(int argc, char **argv) {
    HOLDS(argc == 5);
    const int rank = atoi(argv[1]), ranks = atoi(argv[2]);
    const char *file = argv[3], *how = argv[4];
    ncclUniqueId ids[2];
    share(ids, 2, rank, file);
    struct job job = {.ranks = ranks, .local = 1, .rank = {rank}};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.commName = "the test's";
    config.nvlinkCentricSched = 1;
    config.blocking = strcmp(how, "nonblocking") != 0;
    if (strcmp(how, "plain") == 0) {
        OK(ncclCommInitRank(&job.comm[0], ranks, ids[0], rank));
    } else if (strcmp(how, "scalable") == 0) {
        OK(ncclCommInitRankScalable(&job.comm[0], ranks, rank, ranks < 2 ? ranks : 2, ids, &config));
    } else {
        ncclResult_t begun = ncclCommInitRankConfig(&job.comm[0], ranks, ids[0], rank, &config);
        HOLDS(begun == (config.blocking ? ncclSuccess : ncclInProgress));
    }
    settle(job.comm[0]);
    exercise(&job);
    exercise_splits(&job);
    OK(ncclCommFinalize(job.comm[0]));
    settle(job.comm[0]);
    OK(ncclCommDestroy(job.comm[0]));
    printf("@@right\n");
    return 0;
}
