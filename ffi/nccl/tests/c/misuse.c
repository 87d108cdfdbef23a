/* What each mistake is answered with: a table of calls, codes, and a word of the text. */
#include "exercise.h"

static int wrong;

static void expect(int line, const char *what, ncclResult_t got, ncclResult_t wanted, ncclComm_t comm, const char *word) {
    const char *text = ncclGetLastError(comm);
    if (got == wanted && (wanted == ncclSuccess || (strstr(text, word) && strstr(text, "nccl")))) return;
    fprintf(stderr, "misuse.c:%d: %s gave %d instead of %d, \"%s\" (wanted \"%s\")\n", line, what, got, wanted, text, word);
    wrong++;
}
#define GIVES(wanted, word, call) expect(__LINE__, #call, call, wanted, NULL, word)
#define ARGUMENT(word, call) GIVES(ncclInvalidArgument, word, call)
#define USAGE(word, call) GIVES(ncclInvalidUsage, word, call)
#define FINE(call) GIVES(ncclSuccess, "", call)

int main(void) {
    HOLDS(ncclGetLastError(NULL)[0] == 0);
    ncclUniqueId id, other_id = {{0}};
    ncclComm_t comm, pair[2], nobody;
    int number;
    float a[8] = {0}, b[8] = {0};

    ARGUMENT("NULL", ncclGetVersion(NULL));
    ARGUMENT("NULL", ncclGetUniqueId(NULL));
    OK(ncclGetVersion(&number));
    HOLDS(number == 23203);
    OK(ncclGetUniqueId(&id));

    /* Making */
    ARGUMENT("NULL", ncclCommInitRank(NULL, 1, id, 0));
    ARGUMENT("nranks is 0", ncclCommInitRank(&comm, 0, id, 0));
    ARGUMENT("nranks is -3", ncclCommInitRank(&comm, -3, id, 0));
    ARGUMENT("rank 1 ", ncclCommInitRank(&comm, 1, id, 1));
    ARGUMENT("rank -1 ", ncclCommInitRank(&comm, 1, id, -1));
    ARGUMENT("unique id", ncclCommInitRank(&comm, 1, other_id, 0));
    other_id = id;
    other_id.internal[40] ^= 1;
    ARGUMENT("checksum", ncclCommInitRank(&comm, 1, other_id, 0));
    ncclConfig_t config = {0};
    ARGUMENT("magic", ncclCommInitRankConfig(&comm, 1, id, 0, &config));
    config = (ncclConfig_t)NCCL_CONFIG_INITIALIZER;
    config.minCTAs = 0;
    ARGUMENT("minCTAs", ncclCommInitRankConfig(&comm, 1, id, 0, &config));
    config.minCTAs = UNDEF;
    config.blocking = 2;
    ARGUMENT("blocking", ncclCommInitRankConfig(&comm, 1, id, 0, &config));
    config.blocking = 1;
    ARGUMENT("nId", ncclCommInitRankScalable(&comm, 1, 0, 0, &id, &config));
    ARGUMENT("at most 1", ncclCommInitRankScalable(&comm, 1, 0, 2, &id, &config));
    ARGUMENT("commIds", ncclCommInitRankScalable(&comm, 1, 0, 1, NULL, &config));
    ARGUMENT("ndev", ncclCommInitAll(pair, 0, NULL));
    ARGUMENT("comm", ncclCommInitAll(NULL, 1, NULL));
    number = -1;
    ARGUMENT("device -1", ncclCommInitAll(pair, 1, &number));
    FINE(ncclCommInitRankConfig(&comm, 1, id, 0, &config));
    FINE(ncclCommInitAll(pair, 2, NULL));

    /* Handles: NULL, of something else, an address */
    ARGUMENT("NULL", ncclCommCount(NULL, &number));
    ARGUMENT("NULL", ncclAllReduce(a, b, 8, ncclFloat32, ncclSum, NULL, NULL));
    ARGUMENT("NULL", ncclCommGetAsyncError(NULL, NULL));
    ARGUMENT("NULL", ncclCommGetAsyncError(comm, NULL));
    ARGUMENT("another NCCL", ncclCommCount((ncclComm_t)(void *)a, &number));
    ARGUMENT("count is NULL", ncclCommCount(comm, NULL));
    ARGUMENT("rank is NULL", ncclCommUserRank(comm, NULL));
    ARGUMENT("device is NULL", ncclCommCuDevice(comm, NULL));
    FINE(ncclCommCuDevice(comm, &number));
    HOLDS(number == -1);
    ncclCommProperties_v22900 props = {.size = sizeof props};
    ARGUMENT("INITIALIZER", ncclCommQueryProperties(comm, &props));
    props.magic = 0xcafebeef, props.version = 22907;
    FINE(ncclCommQueryProperties(comm, &props));
    HOLDS(props.rank == 0 && props.nRanks == 1 && !props.deviceApiSupport && props.nLsaTeams == 1);

    /* Calls */
    ARGUMENT("12 is no ncclDataType_t", ncclAllReduce(a, b, 8, (ncclDataType_t)12, ncclSum, comm, NULL));
    ARGUMENT("-1 is no ncclDataType_t", ncclAllReduce(a, b, 8, (ncclDataType_t)-1, ncclSum, comm, NULL));
    ARGUMENT("77 is no ncclRedOp_t", ncclAllReduce(a, b, 8, ncclFloat32, (ncclRedOp_t)77, comm, NULL));
    ARGUMENT("-1 is no ncclRedOp_t", ncclAllReduce(a, b, 8, ncclFloat32, (ncclRedOp_t)-1, comm, NULL));
    ARGUMENT("sendbuff is NULL", ncclAllReduce(NULL, b, 8, ncclFloat32, ncclSum, comm, NULL));
    ARGUMENT("recvbuff is NULL", ncclAllReduce(a, NULL, 8, ncclFloat32, ncclSum, comm, NULL));
    ARGUMENT("overflows", ncclAllReduce(a, b, SIZE_MAX / 2, ncclFloat32, ncclSum, comm, NULL));
    ARGUMENT("overflows", ncclAllGather(a, b, SIZE_MAX / 8 + 1, ncclFloat64, comm, NULL));
    ARGUMENT("overlap", ncclAllReduce(a, a + 1, 7, ncclFloat32, ncclSum, comm, NULL));
    ARGUMENT("aligned", ncclAllReduce((char *)a + 1, b, 7, ncclFloat32, ncclSum, comm, NULL));
    ARGUMENT("root 1", ncclBroadcast(a, b, 8, ncclFloat32, 1, comm, NULL));
    ARGUMENT("root -1", ncclReduce(a, b, 8, ncclFloat32, ncclSum, -1, comm, NULL));
    ARGUMENT("root -2147483648", ncclGather(a, b, 8, ncclFloat32, INT_MIN, comm, NULL));
    ARGUMENT("root 2147483647", ncclScatter(a, b, 8, ncclFloat32, INT_MAX, comm, NULL));
    ARGUMENT("peer -1", ncclSend(a, 8, ncclFloat32, -1, comm, NULL));
    ARGUMENT("peer 2", ncclRecv(a, 8, ncclFloat32, 2, pair[0], NULL));
    USAGE("one group", ncclSend(a, 8, ncclFloat32, 0, comm, NULL));
    USAGE("one group", ncclRecv(a, 8, ncclFloat32, 0, comm, NULL));
    ncclCollConfig_t call = {0};
    ARGUMENT("magic", ncclAllReduceConfig(a, b, 8, ncclFloat32, ncclSum, comm, NULL, &call));
    call = (ncclCollConfig_t)NCCL_COLLCONFIG_INITIALIZER;
    call.algSelection = "ring";
    USAGE("algSelection", ncclAllReduceConfig(a, b, 8, ncclFloat32, ncclSum, comm, NULL, &call));
    call.forceAlgSelection = 0;
    FINE(ncclAllReduceConfig(a, b, 8, ncclFloat32, ncclSum, comm, NULL, &call));
    call.launchCompletionEvent = a;
    USAGE("CUDA event", ncclAllReduceConfig(a, b, 8, ncclFloat32, ncclSum, comm, NULL, &call));

    /* Operators */
    ncclRedOp_t op = ncclSum;
    ARGUMENT("op is NULL", ncclRedOpCreatePreMulSum(NULL, a, ncclFloat32, ncclScalarHostImmediate, comm));
    ARGUMENT("scalar is NULL", ncclRedOpCreatePreMulSum(&op, NULL, ncclFloat32, ncclScalarHostImmediate, comm));
    ARGUMENT("12 is no", ncclRedOpCreatePreMulSum(&op, a, ncclNumTypes, ncclScalarHostImmediate, comm));
    ARGUMENT("2 is no", ncclRedOpCreatePreMulSum(&op, a, ncclFloat32, (ncclScalarResidence_t)2, comm));
    FINE(ncclRedOpCreatePreMulSum(&op, a, ncclFloat32, ncclScalarHostImmediate, comm));
    ARGUMENT("of type float", ncclAllReduce(a, b, 4, ncclFloat64, op, comm, NULL));
    ARGUMENT("of this communicator", ncclAllReduce(a, b, 4, ncclFloat32, op, pair[0], NULL));
    ARGUMENT("of this communicator", ncclRedOpDestroy(op, pair[0]));
    FINE(ncclRedOpDestroy(op, comm));
    ARGUMENT("of this communicator", ncclRedOpDestroy(op, comm));
    ARGUMENT("own reductions", ncclRedOpDestroy(ncclAvg, comm));
    ARGUMENT("is no ncclRedOp_t", ncclAllReduce(a, b, 4, ncclFloat32, op, comm, NULL));

    /* Groups */
    USAGE("ncclGroupStart first", ncclGroupEnd());
    FINE(ncclGroupStart());
    FINE(ncclSend(a, 8, ncclFloat32, 0, comm, NULL));
    USAGE("1 messages and receives 0", ncclGroupEnd());
    FINE(ncclGroupStart());
    FINE(ncclSend(a, 8, ncclFloat32, 0, comm, NULL));
    FINE(ncclRecv(b, 7, ncclFloat32, 0, comm, NULL));
    USAGE("Even(8)", ncclGroupEnd());
    a[0] = 7, b[0] = 0;
    FINE(ncclGroupStart());
    FINE(ncclAllReduce(a, b, 1, ncclFloat32, ncclSum, comm, NULL));
    ARGUMENT("root 3", ncclBroadcast(a, b, 8, ncclFloat32, 3, comm, NULL));
    ARGUMENT("nothing of the group", ncclGroupEnd());
    HOLDS(b[0] == 0);
    USAGE("ncclGroupStart first", ncclGroupEnd());
    FINE(ncclGroupStart());
    FINE(ncclCommInitRank(&nobody, 2, id, 0));
    HOLDS(nobody != NULL);
    ARGUMENT("still being made", ncclCommCount(nobody, &number));
    ARGUMENT("rank 2", ncclCommInitRank(&nobody, 2, id, 2));
    ARGUMENT("nothing of the group", ncclGroupEnd());
    HOLDS(nobody == NULL);
    ncclSimInfo_t info = {sizeof info, 0x74685283, 23203, -1};
    FINE(ncclGroupStart());
    FINE(ncclAllReduce(a, b, 1, ncclFloat32, ncclSum, comm, NULL));
    USAGE("measured costs", ncclGroupSimulateEnd(&info));
    HOLDS(b[0] == 0 && info.estimatedTime == -1);
    FINE(ncclGroupStart());
    ARGUMENT("simInfo", ncclGroupSimulateEnd(NULL));
    USAGE("ncclGroupStart first", ncclGroupSimulateEnd(&info));

    /* Memory */
    void *memory, *handle;
    ncclWindow_t window;
    ARGUMENT("NULL", ncclMemAlloc(NULL, 8));
    ARGUMENT("more than there can be", ncclMemAlloc(&memory, SIZE_MAX - 4096));
    GIVES(ncclSystemError, "the system has no", ncclMemAlloc(&memory, (size_t)1 << 62));
    FINE(ncclMemAlloc(&memory, 0));
    HOLDS(memory == NULL);
    FINE(ncclMemFree(NULL));
    FINE(ncclMemAlloc(&memory, 10000));
    HOLDS((uintptr_t)memory % 4096 == 0);
    ARGUMENT("did not come from", ncclMemFree(a));
    ARGUMENT("did not come from", ncclMemFree((char *)memory + 1));
    ARGUMENT("handle is NULL", ncclCommRegister(comm, memory, 10000, NULL));
    ARGUMENT("no memory", ncclCommRegister(comm, NULL, 10000, &handle));
    ARGUMENT("no memory", ncclCommRegister(comm, memory, SIZE_MAX, &handle));
    FINE(ncclCommRegister(comm, memory, 10000, &handle));
    ARGUMENT("another communicator", ncclCommDeregister(pair[0], handle));
    ARGUMENT("another kind", ncclCommWindowDeregister(comm, (ncclWindow_t)handle));
    FINE(ncclCommDeregister(comm, handle));
    ARGUMENT("no registration any more", ncclCommDeregister(comm, handle));
    ARGUMENT("winFlags 0x10", ncclCommWindowRegister(comm, memory, 4096, &window, 0x10));
    ARGUMENT("aligned to 4096", ncclCommWindowRegister(comm, (char *)memory + 64, 4096, &window, 1));
    FINE(ncclCommWindowRegister(comm, memory, 4096, &window, 1));
    FINE(ncclWinGetUserPtr(comm, window, &handle));
    HOLDS(handle == memory);
    USAGE("one-sided", ncclPutSignal(a, 1, ncclFloat32, 0, window, 0, 0, 0, 0, comm, NULL));
    FINE(ncclCommWindowDeregister(comm, window));
    ARGUMENT("no window any more", ncclWinGetUserPtr(comm, window, &handle));
    FINE(ncclMemFree(memory));
    ARGUMENT("freed before", ncclMemFree(memory));

    /* Communicators from communicators */
    ARGUMENT("newcomm is NULL", ncclCommSplit(comm, 0, 0, NULL, NULL));
    ARGUMENT("color -2", ncclCommSplit(comm, -2, 0, &nobody, NULL));
    int listed[3] = {1, 1, 5};
    ARGUMENT("of 0 ranks", ncclCommShrink(pair[0], listed, 0, &nobody, NULL, 0));
    ARGUMENT("of -1 ranks", ncclCommShrink(pair[0], listed, -1, &nobody, NULL, 0));
    ARGUMENT("not all 2", ncclCommShrink(pair[0], listed, 2, &nobody, NULL, 0));
    ARGUMENT("excludeRanksList", ncclCommShrink(pair[0], NULL, 1, &nobody, NULL, 0));
    ARGUMENT("excluded rank 5", ncclCommShrink(pair[0], listed + 2, 1, &nobody, NULL, 0));
    ARGUMENT("not the one that calls", ncclCommShrink(pair[1], listed, 1, &nobody, NULL, 0));
    ARGUMENT("shrinkFlags 2", ncclCommShrink(pair[0], listed, 1, &nobody, NULL, 2));
    USAGE("new ranks", ncclCommGrow(comm, 2, &id, -1, &nobody, NULL));

    /* Teams have no code: no ranks, and the words */
    HOLDS(ncclTeamWorld(NULL).nRanks == 0 && strstr(ncclGetLastError(NULL), "ncclTeamWorld"));
    ncclTeam_t team = ncclTeamWorld(pair[1]);
    HOLDS(team.nRanks == 2 && team.rank == 1 && team.stride == 1 && ncclTeamRankToWorld(pair[1], team, 0) == 0);
    HOLDS(ncclTeamLsa(pair[1]).nRanks == 1);

    /* The end */
    uint64_t stat;
    ARGUMENT("flags 0", ncclCommSuspend(comm, 0));
    USAGE("not suspended", ncclCommResume(comm));
    FINE(ncclCommSuspend(comm, 1));
    FINE(ncclCommMemStats(comm, 1, &stat));
    HOLDS(stat == 1);
    USAGE("is suspended", ncclAllReduce(a, b, 8, ncclFloat32, ncclSum, comm, NULL));
    FINE(ncclCommResume(comm));
    ARGUMENT("4 is no", ncclCommMemStats(comm, 4, &stat));
    FINE(ncclAllReduce(a, b, 8, ncclFloat32, ncclSum, comm, NULL));
    ARGUMENT("revokeFlags", ncclCommRevoke(comm, 1));
    FINE(ncclCommFinalize(comm));
    USAGE("was finalized", ncclAllReduce(a, b, 8, ncclFloat32, ncclSum, comm, NULL));
    USAGE("was finalized", ncclCommFinalize(comm));
    USAGE("was finalized", ncclCommRevoke(comm, 0));
    FINE(ncclCommDestroy(comm));
    ARGUMENT("no communicator any more", ncclCommDestroy(comm));
    ARGUMENT("no communicator any more", ncclCommAbort(comm));
    ARGUMENT("no communicator any more", ncclAllReduce(a, b, 8, ncclFloat32, ncclSum, comm, NULL));
    FINE(ncclCommDestroy(NULL));
    FINE(ncclCommAbort(NULL));
    FINE(ncclCommFinalize(NULL));
    FINE(ncclCommRevoke(pair[0], 0));
    USAGE("was revoked", ncclAllReduce(a, b, 8, ncclFloat32, ncclSum, pair[0], NULL));
    ncclResult_t state;
    FINE(ncclCommGetAsyncError(pair[0], &state));
    HOLDS(state == ncclSuccess);
    FINE(ncclCommShrink(pair[0], listed, 1, &comm, NULL, 0));
    FINE(ncclAllReduce(a, b, 8, ncclFloat32, ncclSum, comm, NULL));
    FINE(ncclCommAbort(comm));
    FINE(ncclCommAbort(pair[0]));
    FINE(ncclCommDestroy(pair[1]));
    HOLDS(strcmp(ncclGetErrorString(ncclSuccess), "no error") == 0);
    HOLDS(strcmp(ncclGetErrorString((ncclResult_t)99), "unknown result code") == 0);
    if (wrong) return 1;
    printf("@@right\n");
    return 0;
}
