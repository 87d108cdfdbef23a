/* Roundel: collective communication between threads, processes and hosts.
 *
 * Every function that can fail returns a roundel_result_t. Nothing throws, aborts or exits. All functions may be called
 * from any thread; what a thread's last call did wrong is kept for that thread (roundel_last_error).
 *
 * Buffers are plain host memory, aligned for their elements; they are the caller's, and must stay as they are until the
 * call has returned, or until the work has ended (roundel_work_wait). Memory of roundel_alloc is the fastest. Counts are
 * in elements, as NCCL counts them.
 *
 * Every rank of a communicator makes the same calls in the same order. After any error but an invalid argument, an
 * invalid handle or something not supported the communicator is finished, and later calls repeat the error. When ranks
 * are lost, those who live go on with roundel_shrink.
 *
 * This file is generated from ffi/c/src; do not edit it. */

#ifndef ROUNDEL_H
#define ROUNDEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The version of this header: major * 10000 + minor * 100 + patch.
#define ROUNDEL_VERSION 100

// Bytes of a `roundel_unique_id_t`.
#define ROUNDEL_UNIQUE_ID_BYTES 128

// Bytes of a unique id as text, with the NUL at its end.
#define ROUNDEL_UNIQUE_ID_TEXT_BYTES 257

// Bytes that are enough for every text of `roundel_invitation`, the NUL at its end among them.
#define ROUNDEL_INVITATION_TEXT_BYTES 4096

// What a call returns. Everything but `ROUNDEL_SUCCESS` and `ROUNDEL_IN_PROGRESS` is an error, about which
// `roundel_last_error` and `roundel_last_error_details` tell more.
enum roundel_result_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // The call has done what it should.
    ROUNDEL_SUCCESS = 0,
    // Not an error: the work has not ended yet.
    ROUNDEL_IN_PROGRESS = 1,
    // The arguments make no sense. Nothing was sent; the communicator is still good.
    ROUNDEL_ERROR_INVALID_ARGUMENT = 2,
    // A handle is NULL, was destroyed before, or never was one. Nothing else happened.
    ROUNDEL_ERROR_INVALID_HANDLE = 3,
    // This build, machine or combination does not offer it. The communicator is still good.
    ROUNDEL_ERROR_UNSUPPORTED = 4,
    // Ranks made different calls; the message shows both. The communicator is finished, on every rank.
    ROUNDEL_ERROR_MISMATCH = 5,
    // A rank exited, was killed, froze, or its host went away. The communicator is finished, on every rank; those who live
    // go on with `roundel_shrink`.
    ROUNDEL_ERROR_PEER_LOST = 6,
    // A deadline passed. The communicator is finished, on every rank.
    ROUNDEL_ERROR_TIMEOUT = 7,
    // Not all ranks turned up when the communicator was made.
    ROUNDEL_ERROR_BOOTSTRAP = 8,
    // A rank called `roundel_comm_abort`. The communicator is finished, on every rank.
    ROUNDEL_ERROR_ABORTED = 9,
    // The operating system said no. If that was during a collective, the communicator is finished.
    ROUNDEL_ERROR_SYSTEM = 10,
    // A bug in Roundel; please report it with the message.
    ROUNDEL_ERROR_INTERNAL = 11,
    // Bytes arrived changed, or ranks hold different results (`ROUNDEL_CHECKSUM`, `ROUNDEL_ENCRYPT`,
    // `ROUNDEL_VERIFY_RESULTS`). The communicator is finished, on every rank.
    ROUNDEL_ERROR_CORRUPTED = 12,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum roundel_result_t roundel_result_t;
#else
typedef int32_t roundel_result_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// The pattern of a call.
enum roundel_collective_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // None: the error belongs to no call.
    ROUNDEL_COLLECTIVE_NONE = -1,
    // roundel_all_reduce
    ROUNDEL_COLLECTIVE_ALL_REDUCE = 0,
    // roundel_reduce
    ROUNDEL_COLLECTIVE_REDUCE = 1,
    // roundel_broadcast
    ROUNDEL_COLLECTIVE_BROADCAST = 2,
    // roundel_reduce_scatter, roundel_reduce_scatter_v
    ROUNDEL_COLLECTIVE_REDUCE_SCATTER = 3,
    // roundel_all_gather, roundel_all_gather_v
    ROUNDEL_COLLECTIVE_ALL_GATHER = 4,
    // roundel_gather
    ROUNDEL_COLLECTIVE_GATHER = 5,
    // roundel_scatter
    ROUNDEL_COLLECTIVE_SCATTER = 6,
    // roundel_all_to_all, roundel_all_to_all_v
    ROUNDEL_COLLECTIVE_ALL_TO_ALL = 7,
    // roundel_barrier, roundel_comm_split, roundel_grow
    ROUNDEL_COLLECTIVE_BARRIER = 8,
    // roundel_send, roundel_recv, roundel_sendrecv
    ROUNDEL_COLLECTIVE_SEND_RECV = 9,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum roundel_collective_t roundel_collective_t;
#else
typedef int32_t roundel_collective_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Whether a call that failed has changed what it was given.
enum roundel_buffer_state_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // The input is as it was, and the call can be made again with it on a communicator that works. Always so where input and
    // output are not the same memory; then the output's contents are undefined once the call has begun.
    ROUNDEL_BUFFER_INTACT = 0,
    // The call was in place and had begun to write: the buffer holds parts of the input, of sums, and of the result.
    ROUNDEL_BUFFER_UNDEFINED = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum roundel_buffer_state_t roundel_buffer_state_t;
#else
typedef int32_t roundel_buffer_state_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// The type of an element. The numbers are those of `ncclDataType_t`.
enum roundel_dtype_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // int8_t
    ROUNDEL_INT8 = 0,
    // uint8_t
    ROUNDEL_UINT8 = 1,
    // int32_t
    ROUNDEL_INT32 = 2,
    // uint32_t
    ROUNDEL_UINT32 = 3,
    // int64_t
    ROUNDEL_INT64 = 4,
    // uint64_t
    ROUNDEL_UINT64 = 5,
    // IEEE binary16
    ROUNDEL_FLOAT16 = 6,
    // float
    ROUNDEL_FLOAT32 = 7,
    // double
    ROUNDEL_FLOAT64 = 8,
    // The upper half of a float
    ROUNDEL_BFLOAT16 = 9,
    // OCP E4M3FN: no infinities, at most 448
    ROUNDEL_FLOAT8_E4M3 = 10,
    // OCP E5M2: at most 57344
    ROUNDEL_FLOAT8_E5M2 = 11,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum roundel_dtype_t roundel_dtype_t;
#else
typedef int32_t roundel_dtype_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// How elements combine. The numbers of the first five are those of `ncclRedOp_t`; more are made by
// `roundel_reduce_op_create_pre_mul_sum`.
enum roundel_reduce_op_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Integers wrap around; small floats add in 32 bits and round once where the path allows.
    ROUNDEL_SUM = 0,
    // Product
    ROUNDEL_PROD = 1,
    // A NaN anywhere gives NaN; -0 is below +0.
    ROUNDEL_MAX = 2,
    // A NaN anywhere gives NaN; -0 is below +0.
    ROUNDEL_MIN = 3,
    // The sum divided by the number of ranks; integers truncate toward zero.
    ROUNDEL_AVG = 4,
    // Integers only
    ROUNDEL_BIT_AND = 6,
    // Integers only
    ROUNDEL_BIT_OR = 7,
    // Integers only
    ROUNDEL_BIT_XOR = 8,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum roundel_reduce_op_t roundel_reduce_op_t;
#else
typedef int32_t roundel_reduce_op_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// A communicator: a group of ranks. Any number of threads may use one at once, as long as all ranks see the same order of
// collectives. It is a number in disguise that is checked on every use: NULL, a destroyed or an invented one gives
// `ROUNDEL_ERROR_INVALID_HANDLE`.
typedef struct roundel_comm roundel_comm;

// Settings for new communicators. Checked on every use like a communicator.
typedef struct roundel_options roundel_options;

// One or several calls in flight. Checked on every use like a communicator.
typedef struct roundel_work roundel_work;

// The last error of a thread, in pieces. Set `size` before asking; pointers are good until the thread's next error.
typedef struct roundel_error_details_t {
    // `sizeof(roundel_error_details_t)`, from the caller: no more than this is written, so the struct may grow.
    size_t size;
    // What the failed call returned; `ROUNDEL_SUCCESS` when none has failed.
    roundel_result_t code;
    // `errno` of a `ROUNDEL_ERROR_SYSTEM`, else 0.
    int32_t system_errno;
    // The function that failed, as in "roundel_all_reduce"; never NULL.
    const char *function;
    // What `roundel_last_error` gives; never NULL.
    const char *message;
    // This rank's number in the communicator of the failed call, or -1.
    int32_t rank;
    // The collective in which this rank was interrupted, or `ROUNDEL_COLLECTIVE_NONE`. It may be an earlier one than the
    // one that reports it.
    roundel_collective_t collective;
    // That collective's number on its communicator, counted from 0, the same on all ranks.
    uint64_t sequence;
    // The ranks that it is about: lost (`PEER_LOST`), late (`TIMEOUT`), missing (`BOOTSTRAP`), disagreeing (`MISMATCH`),
    // aborting (`ABORTED`), holding wrong bytes (`CORRUPTED`).
    const int32_t *ranks;
    // How many `ranks`.
    size_t rank_count;
    // What is left of the data that the failed call was given: `ROUNDEL_BUFFER_INTACT` unless it was in place and cut in the
    // middle.
    roundel_buffer_state_t buffer;
    // How far the failed call had come on this rank: bytes sent, received, copied and reduced, each time that one is touched.
    // 0 where it was refused before it began.
    uint64_t done_bytes;
    // Bytes that it would have, in all; 0 where it was refused before it began, and for a barrier within a host.
    uint64_t total_bytes;
} roundel_error_details_t;

// What all ranks of a job must know to find one another: made once by `roundel_unique_id_create` and handed to all by
// whatever way there is. Whoever reads it can join the job, so pass it like a password.
typedef struct roundel_unique_id_t {
    // Opaque, but plain bytes: copy it, send it.
    uint8_t bytes[ROUNDEL_UNIQUE_ID_BYTES];
} roundel_unique_id_t;

// See `struct roundel_options`.
typedef struct roundel_options *roundel_options_t;

// See `struct roundel_comm`.
typedef struct roundel_comm *roundel_comm_t;

// See `struct roundel_work`.
typedef struct roundel_work *roundel_work_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// What went wrong in the last call of this thread that returned an error: which function, what happened, which ranks,
// what to do. Never NULL, empty when no call has failed; good until the thread's next error. A success leaves it as it is.
const char *roundel_last_error(void);

// The same in pieces, for programs.
roundel_result_t roundel_last_error_details(struct roundel_error_details_t *details);

// The version of the library that is running, to compare with `ROUNDEL_VERSION`.
int32_t roundel_version(void);

// The same as text, as in "0.1.0".
const char *roundel_version_string(void);

// What a result means, in a few words; never NULL. What happened is told by `roundel_last_error`.
const char *roundel_result_string(int32_t result);

// Bytes of one element of this type.
roundel_result_t roundel_dtype_size(roundel_dtype_t dtype, size_t *size_bytes);

// Opens a job: the service at which its ranks meet starts in this process, which should live as long as the job; usually
// it is rank 0's. `ROUNDEL_IFACE` and `ROUNDEL_PORT_RANGE` say where it listens. An id serves one job.
roundel_result_t roundel_unique_id_create(struct roundel_unique_id_t *id);

// Writes an id as 256 hexadecimal digits, as `ROUNDEL_UNIQUE_ID` wants it. `text` has `text_bytes` bytes, at least
// `ROUNDEL_UNIQUE_ID_TEXT_BYTES`.
roundel_result_t roundel_unique_id_format(struct roundel_unique_id_t id, char *text, size_t text_bytes);

// Reads what `roundel_unique_id_format` wrote.
roundel_result_t roundel_unique_id_parse(const char *text, struct roundel_unique_id_t *id);

// Makes an options object: the defaults, changed by the `ROUNDEL_*` variables that are set. To be given back with
// `roundel_options_destroy`; communicators keep a copy.
roundel_result_t roundel_options_create(roundel_options_t *options);

// Changes one setting: `timeout_ms`, `init_timeout_ms`, `heartbeat_ms`, `heartbeat_timeout_ms`, `store`, `device`,
// `transport`, `fabric_provider`, `algo`, `channels`, `slice_bytes`, `tune`, `tune_file`, `sockets`, `reproducible`, `iface`,
// `port_range`, `encrypt`, `checksum`, `verify_results`, `stage_bytes`, `ring_bytes` or `arena_bytes`, written as in the variable `ROUNDEL_TIMEOUT_MS` and
// so on. A bad one is refused and changes nothing. All ranks must use the same, except `device`, `iface`, `port_range` and what tunes, where
// rank 0's counts. Several interfaces in `iface`, with commas between them, are rails: links between hosts go over all of them.
roundel_result_t roundel_options_set(roundel_options_t options,
                                     const char *name,
                                     const char *value);

// Gives an options object back.
roundel_result_t roundel_options_destroy(roundel_options_t options);

// Joins the job that a launcher started this process in: torchrun, Open MPI, MPICH, Slurm, or the variables
// `ROUNDEL_RANK`, `ROUNDEL_WORLD_SIZE` and `ROUNDEL_MASTER_ADDR`. Without any of them: a world of one. Blocks until all
// ranks are there. `options` may be NULL: then the `ROUNDEL_*` variables alone decide.
roundel_result_t roundel_init(roundel_comm_t *comm, roundel_options_t options);

// Joins as `rank` of `world` the job that `id` names. Blocks until all ranks have, at most the option `init_timeout_ms`;
// then the error says who is missing. `options` may be NULL.
roundel_result_t roundel_comm_init_rank(roundel_comm_t *comm,
                                        int32_t world,
                                        struct roundel_unique_id_t id,
                                        int32_t rank,
                                        roundel_options_t options);

// Makes all `world` ranks in this process: `comms[r]` becomes rank r, for a thread of the caller's, or for one thread
// that calls for all of them inside a group. `options` may be NULL.
roundel_result_t roundel_comm_init_threads(roundel_comm_t *comms, int32_t world, roundel_options_t options);

// Ranks of the same `color`, not negative, become a communicator of their own, ordered by `key` and then by their rank
// here; a rank with color -1 gets NULL. Collective over all ranks of `comm`, and blocking. The new communicator may be
// used beside the old one and outlives it.
roundel_result_t roundel_comm_split(roundel_comm_t comm, int32_t color, int64_t key, roundel_comm_t *part);

// The `count` ranks listed in `ranks` (their numbers here, in the new order) become a communicator of their own. Only they
// make this call, all with the same list; so it also works when other ranks are dead or `comm` has failed. An error when a
// listed one is dead; where it is not known who lives, `roundel_shrink` finds out. Blocks at most `init_timeout_ms`.
roundel_result_t roundel_comm_subset(roundel_comm_t comm,
                                     const int32_t *ranks,
                                     size_t count,
                                     roundel_comm_t *part);

// Ends this rank's part of a communicator: waits for its calls in flight and tells the other ranks, where calls that
// still need this rank then fail. Calls that other threads are in go on to their end; then the handle is invalid. To
// leave without waiting call `roundel_comm_abort` first, or meanwhile from another thread.
roundel_result_t roundel_comm_destroy(roundel_comm_t comm);

// Ends the communicator on all ranks: calls in flight and later ones fail everywhere with `ROUNDEL_ERROR_ABORTED` and
// this reason, which may be NULL. From any thread, while others are inside calls. The handle stays valid.
roundel_result_t roundel_comm_abort(roundel_comm_t comm, const char *reason);

// `ROUNDEL_SUCCESS` while the communicator works, afterwards the error that ended it. Never blocks.
roundel_result_t roundel_comm_status(roundel_comm_t comm);

// This rank's number in the communicator.
roundel_result_t roundel_comm_rank(roundel_comm_t comm, int32_t *rank);

// How many ranks the communicator has.
roundel_result_t roundel_comm_world(roundel_comm_t comm, int32_t *world);

// How many times the membership had changed (`roundel_shrink`, `roundel_grow`) when the communicator was made.
roundel_result_t roundel_comm_epoch(roundel_comm_t comm, int32_t *epoch);

// The number that each rank had when the job began, in the order of ranks; new numbers go to those who joined later. `members`
// has room for `count` of them, at least as many as ranks; what is beyond stays as it is.
roundel_result_t roundel_comm_members(roundel_comm_t comm,
                                      int32_t *members,
                                      size_t count);

// Over how many hosts the communicator's ranks are spread.
roundel_result_t roundel_comm_host_count(roundel_comm_t comm, int32_t *hosts);

// The number of the host, from 0, on which a rank is: ranks with the same number share memory.
roundel_result_t roundel_comm_host_of(roundel_comm_t comm, int32_t rank, int32_t *host);

// What the ranks' links are made of: "memory" (threads of one process), "shm", "tcp", "fabric"
// (RDMA), "shm+tcp" or "shm+fabric". The text is static.
roundel_result_t roundel_comm_transport(roundel_comm_t comm, const char **transport);

// The ranks of `comm` that live become a communicator of their own, in the same processes and in the same order. All of them
// make this call (after the error that told them of a loss, they all can); the dead are not waited for, and whoever dies
// meanwhile is left out too. `comm` is not changed: it has failed, as a rule, and is destroyed.
//
// Blocks until all that live have called, at most the option `init_timeout_ms`; then the error names those who did not.
// `ROUNDEL_ERROR_PEER_LOST` where so many cannot be reached, without being known to be dead, that they may be going on by
// themselves: of a network cut in two at most one side goes on.
roundel_result_t roundel_shrink(roundel_comm_t comm,
                                roundel_comm_t *rest);

// `all` becomes true on all ranks that live when all of them said `flag`: one answer everywhere, also when ranks die meanwhile
// and when `comm` has failed. What a step of training needs to know before it counts as done. All ranks that live make this
// call; where one of them shrinks instead the answer is false. Blocks until they have, at most `timeout_ms`; takes some
// 100 us.
roundel_result_t roundel_agree(roundel_comm_t comm,
                               bool flag,
                               bool *all);

// `roundel_all_reduce` in place that either changes `data` on every rank that lives or on none: on an error, here or
// anywhere, it is as it was, so that the call can be made again after `roundel_shrink`. Takes memory for a second vector, one
// copy of it, and a `roundel_agree`.
roundel_result_t roundel_all_reduce_preserving(void *data,
                                               size_t count,
                                               roundel_dtype_t dtype,
                                               roundel_reduce_op_t op,
                                               roundel_comm_t comm);

// Writes what a process needs to join this job while it runs, as text for `roundel_enlist`. Any rank's will do, for as long as
// one of the ranks lives that are members now. Whoever reads it can join: pass it like a password. `text` has `text_bytes`
// bytes; `ROUNDEL_INVITATION_TEXT_BYTES` are enough. A job of one rank listens nowhere before its
// first invitation, which opens it on the option `iface` or the first interface that leads somewhere.
roundel_result_t roundel_invitation(roundel_comm_t comm,
                                    char *text,
                                    size_t text_bytes);

// Becomes a rank of a job that runs, by the text of `roundel_invitation`: blocks until its members call `roundel_grow`, at most
// `init_timeout_ms`. `options` may be NULL; those that the members share must be theirs.
roundel_result_t roundel_enlist(roundel_comm_t *comm,
                                const char *invitation,
                                roundel_options_t options);

// Admits everybody who waits in `roundel_enlist`: `grown` becomes a communicator of this one's ranks, in their order, and then
// the newcomers, or NULL where nobody waits, after some 100 us. `comm` stays what it is and can be used on.
//
// All ranks make this call, between two steps of their work. Blocks until all have, at most `init_timeout_ms`. An error, the
// same on all ranks, when one of them is gone (`roundel_shrink` first) or a newcomer dies meanwhile (grow again).
roundel_result_t roundel_grow(roundel_comm_t comm,
                              roundel_comm_t *grown);

// Zeroed memory that the other ranks of the host can reach: calls on it need no staging copies. At least 64-byte
// aligned. Not collective: each rank allocates for itself, and calls find out whether all of them did. It may outlive
// the communicator.
roundel_result_t roundel_alloc(void **memory, size_t len_bytes, roundel_comm_t comm);

// Gives memory of `roundel_alloc` back; NULL is fine. No call that uses it may be in flight.
roundel_result_t roundel_free(void *memory);

// Everyone's `recv` becomes the reduction of everyone's `send`. In place: `recv == send`.
roundel_result_t roundel_all_reduce(const void *send,
                                    void *recv,
                                    size_t count,
                                    roundel_dtype_t dtype,
                                    roundel_reduce_op_t op,
                                    roundel_comm_t comm);

// `roundel_all_reduce` that goes on by itself.
roundel_result_t roundel_all_reduce_async(const void *send,
                                          void *recv,
                                          size_t count,
                                          roundel_dtype_t dtype,
                                          roundel_reduce_op_t op,
                                          roundel_comm_t comm,
                                          roundel_work_t *work);

// The root's `recv` becomes the reduction of everyone's `send`; elsewhere `recv` is ignored and may be NULL. In place:
// `recv == send`.
roundel_result_t roundel_reduce(const void *send,
                                void *recv,
                                size_t count,
                                roundel_dtype_t dtype,
                                roundel_reduce_op_t op,
                                int32_t root,
                                roundel_comm_t comm);

// `roundel_reduce` that goes on by itself.
roundel_result_t roundel_reduce_async(const void *send,
                                      void *recv,
                                      size_t count,
                                      roundel_dtype_t dtype,
                                      roundel_reduce_op_t op,
                                      int32_t root,
                                      roundel_comm_t comm,
                                      roundel_work_t *work);

// Rank r's `recv` becomes block r of the reduction. `count` elements in a block, and as many blocks in `send` as ranks. In
// place: `recv == send + rank * count`; the other blocks stay as they are.
roundel_result_t roundel_reduce_scatter(const void *send,
                                        void *recv,
                                        size_t count,
                                        roundel_dtype_t dtype,
                                        roundel_reduce_op_t op,
                                        roundel_comm_t comm);

// `roundel_reduce_scatter` that goes on by itself.
roundel_result_t roundel_reduce_scatter_async(const void *send,
                                              void *recv,
                                              size_t count,
                                              roundel_dtype_t dtype,
                                              roundel_reduce_op_t op,
                                              roundel_comm_t comm,
                                              roundel_work_t *work);

// `roundel_reduce_scatter` with a length of its own for every block: `counts` has one for each rank, the same on all ranks.
// In place: `recv` is this rank's block of `send`.
roundel_result_t roundel_reduce_scatter_v(const void *send,
                                          void *recv,
                                          const size_t *counts,
                                          roundel_dtype_t dtype,
                                          roundel_reduce_op_t op,
                                          roundel_comm_t comm);

// `roundel_reduce_scatter_v` that goes on by itself.
roundel_result_t roundel_reduce_scatter_v_async(const void *send,
                                                void *recv,
                                                const size_t *counts,
                                                roundel_dtype_t dtype,
                                                roundel_reduce_op_t op,
                                                roundel_comm_t comm,
                                                roundel_work_t *work);

// Everyone's `recv` becomes the root's `send`; elsewhere `send` is ignored and may be NULL. In place: `recv == send`.
roundel_result_t roundel_broadcast(const void *send,
                                   void *recv,
                                   size_t count,
                                   roundel_dtype_t dtype,
                                   int32_t root,
                                   roundel_comm_t comm);

// `roundel_broadcast` that goes on by itself.
roundel_result_t roundel_broadcast_async(const void *send,
                                         void *recv,
                                         size_t count,
                                         roundel_dtype_t dtype,
                                         int32_t root,
                                         roundel_comm_t comm,
                                         roundel_work_t *work);

// Everyone's `recv` becomes all ranks' `send`, in the order of ranks. `count` elements in `send`, and that times the world in
// `recv`. In place: `send == recv + rank * count`.
roundel_result_t roundel_all_gather(const void *send,
                                    void *recv,
                                    size_t count,
                                    roundel_dtype_t dtype,
                                    roundel_comm_t comm);

// `roundel_all_gather` that goes on by itself.
roundel_result_t roundel_all_gather_async(const void *send,
                                          void *recv,
                                          size_t count,
                                          roundel_dtype_t dtype,
                                          roundel_comm_t comm,
                                          roundel_work_t *work);

// `roundel_all_gather` with a length of its own for every block: `counts` has one for each rank, the same on all ranks. In
// place: `send` is this rank's block of `recv`.
roundel_result_t roundel_all_gather_v(const void *send,
                                      void *recv,
                                      const size_t *counts,
                                      roundel_dtype_t dtype,
                                      roundel_comm_t comm);

// `roundel_all_gather_v` that goes on by itself.
roundel_result_t roundel_all_gather_v_async(const void *send,
                                            void *recv,
                                            const size_t *counts,
                                            roundel_dtype_t dtype,
                                            roundel_comm_t comm,
                                            roundel_work_t *work);

// The root's `recv` becomes all ranks' `send`, in the order of ranks; elsewhere `recv` is ignored and may be NULL. `count`
// elements in `send`. In place: `send == recv + rank * count` on the root.
roundel_result_t roundel_gather(const void *send,
                                void *recv,
                                size_t count,
                                roundel_dtype_t dtype,
                                int32_t root,
                                roundel_comm_t comm);

// `roundel_gather` that goes on by itself.
roundel_result_t roundel_gather_async(const void *send,
                                      void *recv,
                                      size_t count,
                                      roundel_dtype_t dtype,
                                      int32_t root,
                                      roundel_comm_t comm,
                                      roundel_work_t *work);

// Rank r's `recv` becomes block r of the root's `send`; elsewhere `send` is ignored and may be NULL. `count` elements in
// `recv`. In place: `recv == send + rank * count` on the root.
roundel_result_t roundel_scatter(const void *send,
                                 void *recv,
                                 size_t count,
                                 roundel_dtype_t dtype,
                                 int32_t root,
                                 roundel_comm_t comm);

// `roundel_scatter` that goes on by itself.
roundel_result_t roundel_scatter_async(const void *send,
                                       void *recv,
                                       size_t count,
                                       roundel_dtype_t dtype,
                                       int32_t root,
                                       roundel_comm_t comm,
                                       roundel_work_t *work);

// Block j of rank i's `send` becomes block i of rank j's `recv`. `count` elements in a block. In place: `recv == send`.
roundel_result_t roundel_all_to_all(const void *send,
                                    void *recv,
                                    size_t count,
                                    roundel_dtype_t dtype,
                                    roundel_comm_t comm);

// `roundel_all_to_all` that goes on by itself.
roundel_result_t roundel_all_to_all_async(const void *send,
                                          void *recv,
                                          size_t count,
                                          roundel_dtype_t dtype,
                                          roundel_comm_t comm,
                                          roundel_work_t *work);

// `roundel_all_to_all` with a length of its own for every pair: `send_counts[j]` elements go to rank j, which must expect as
// many. Blocks lie end to end. In place: `recv == send`, and equal counts both ways.
roundel_result_t roundel_all_to_all_v(const void *send,
                                      const size_t *send_counts,
                                      void *recv,
                                      const size_t *recv_counts,
                                      roundel_dtype_t dtype,
                                      roundel_comm_t comm);

// `roundel_all_to_all_v` that goes on by itself.
roundel_result_t roundel_all_to_all_v_async(const void *send,
                                            const size_t *send_counts,
                                            void *recv,
                                            const size_t *recv_counts,
                                            roundel_dtype_t dtype,
                                            roundel_comm_t comm,
                                            roundel_work_t *work);

// Sends to one other rank, which must receive as many elements of the same type. Messages of a pair keep their order and
// are independent of collectives. May block until the receiver takes the data.
roundel_result_t roundel_send(const void *send,
                              size_t count,
                              roundel_dtype_t dtype,
                              int32_t peer,
                              roundel_comm_t comm);

// `roundel_send` that goes on by itself.
roundel_result_t roundel_send_async(const void *send,
                                    size_t count,
                                    roundel_dtype_t dtype,
                                    int32_t peer,
                                    roundel_comm_t comm,
                                    roundel_work_t *work);

// Receives from one other rank what it sends.
roundel_result_t roundel_recv(void *recv, size_t count, roundel_dtype_t dtype, int32_t peer, roundel_comm_t comm);

// `roundel_recv` that goes on by itself.
roundel_result_t roundel_recv_async(void *recv,
                                    size_t count,
                                    roundel_dtype_t dtype,
                                    int32_t peer,
                                    roundel_comm_t comm,
                                    roundel_work_t *work);

// Sends to rank `to` and receives from rank `from` at once, which may be the same rank or this one.
roundel_result_t roundel_sendrecv(const void *send,
                                  size_t send_count,
                                  int32_t to,
                                  void *recv,
                                  size_t recv_count,
                                  int32_t from,
                                  roundel_dtype_t dtype,
                                  roundel_comm_t comm);

// `roundel_sendrecv` that goes on by itself.
roundel_result_t roundel_sendrecv_async(const void *send,
                                        size_t send_count,
                                        int32_t to,
                                        void *recv,
                                        size_t recv_count,
                                        int32_t from,
                                        roundel_dtype_t dtype,
                                        roundel_comm_t comm,
                                        roundel_work_t *work);

// Returns when all ranks have called it.
roundel_result_t roundel_barrier(roundel_comm_t comm);

// `roundel_barrier` that goes on by itself: the work ends when all ranks have started or called it.
roundel_result_t roundel_barrier_async(roundel_comm_t comm, roundel_work_t *work);

// Makes a reduction that multiplies this rank's input by a factor, rounding to the element type, and then sums. `factor`
// points to one element of type `dtype`, which is copied; calls must be of that type. Every rank has its own factor.
roundel_result_t roundel_reduce_op_create_pre_mul_sum(roundel_reduce_op_t *op,
                                                      const void *factor,
                                                      roundel_dtype_t dtype);

// Gives a made reduction back. Calls in flight keep theirs.
roundel_result_t roundel_reduce_op_destroy(roundel_reduce_op_t op);

// `ROUNDEL_IN_PROGRESS` while the work is in flight, afterwards how it ended: `ROUNDEL_SUCCESS` or its error. Never
// blocks, and the work need not be asked to make progress.
roundel_result_t roundel_work_test(roundel_work_t work);

// Blocks until the work has ended and returns how. May be called again, and by several threads.
roundel_result_t roundel_work_wait(roundel_work_t work);

// The same for at most `timeout_ms`, not negative; then `ROUNDEL_IN_PROGRESS`, and the work goes on.
roundel_result_t roundel_work_wait_for(roundel_work_t work, int64_t timeout_ms);

// Gives a work back. Blocks until it has ended, because other ranks may be using its buffers; how it ended is told by
// `roundel_work_wait` only.
roundel_result_t roundel_work_free(roundel_work_t work);

// Opens a group on this thread: until `roundel_group_end` the thread's blocking calls return at once and only note what
// to do, on any number of communicators. Groups nest; the outermost end counts.
roundel_result_t roundel_group_start(void);

// Runs the calls of the group, all at once, and returns when all have ended. Collectives of a communicator keep their
// order, messages the order of each pair, and nothing waits for anything else: a send and a receive cannot block each
// other, and one thread can call for several ranks. When one of the calls was refused, none runs and its error is
// returned; otherwise the first error of a call. The buffers must stay until then, and no call may write what another
// one of the group uses.
roundel_result_t roundel_group_end(void);

// The same without waiting: starts the calls, and `work` ends when all have. Of nested groups only the outermost may end
// like this.
roundel_result_t roundel_group_end_async(roundel_work_t *work);

// Ends the innermost group and forgets its calls: for a program that finds on the way that it cannot go on. A group around
// it will not run either; its end returns `ROUNDEL_ERROR_INVALID_ARGUMENT`.
roundel_result_t roundel_group_cancel(void);

// Explains how a call would run on this rank, without running it: the algorithm, the transport and this rank's program.
// `count` is what the call takes; `op` and `root` matter where the call has them; `mapped` says that the buffers would
// come from `roundel_alloc`. Writes as much as fits into the `text_bytes` bytes of `text`, always with a NUL at the end,
// and the whole length without the NUL to `need_bytes`. `text` may be NULL when `text_bytes` is 0; `need_bytes` may be NULL.
roundel_result_t roundel_explain(roundel_collective_t collective,
                                 size_t count,
                                 roundel_dtype_t dtype,
                                 roundel_reduce_op_t op,
                                 int32_t root,
                                 bool in_place,
                                 bool mapped,
                                 char *text,
                                 size_t text_bytes,
                                 size_t *need_bytes,
                                 roundel_comm_t comm);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ROUNDEL_H */
