// Roundel for C++17 and later: roundel.h with owners that clean up, containers instead of pointers and counts, and
// exceptions instead of codes. Nothing here but that; what a call does stands in roundel.h, under its name.
//
//     roundel::Communicator comm;                                  // torchrun, mpirun, srun, or a world of one
//     roundel::Buffer<float> gradients(comm, 1 << 20);             // memory that peers can map; a vector works too
//     comm.all_reduce(gradients, ROUNDEL_AVG);                     // in place
//     roundel::Work work = comm.all_reduce_async(other, ROUNDEL_SUM);
//     work.wait();                                                 // throws roundel::Error, as every call does
//
// A container is anything with contiguous elements that std::data and std::size know: vector, array, span, Buffer, a
// plain array. Lengths that do not fit together are an Error before anything is sent. Containers of a call that goes on by
// itself must stay until its Work has ended; Work's destructor waits for that.
#ifndef ROUNDEL_HPP
#define ROUNDEL_HPP

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "roundel.h"

namespace roundel {

// What went wrong: the message of roundel_last_error, and its pieces.
class Error : public std::runtime_error {
public:
    // The last error of this thread.
    static Error last(roundel_result_t code) {
        roundel_error_details_t details{};
        details.size = sizeof details;
        if (roundel_last_error_details(&details) != ROUNDEL_SUCCESS || details.code != code) {
            return Error(code, "", roundel_result_string(code));
        }
        Error error(code, details.function, details.message);
        error.rank_ = details.rank;
        error.collective_ = details.collective;
        error.sequence_ = details.sequence;
        error.buffer_ = details.buffer;
        error.done_bytes_ = details.done_bytes;
        error.total_bytes_ = details.total_bytes;
        error.ranks_.assign(details.ranks, details.ranks + details.rank_count);
        return error;
    }

    Error(roundel_result_t code, std::string operation, const std::string& message)
        : std::runtime_error(message), code_(code), operation_(std::move(operation)) {}

    roundel_result_t code() const noexcept { return code_; }
    // The function that failed, as in "roundel_all_reduce".
    const std::string& operation() const noexcept { return operation_; }
    // This rank's number in the communicator, or -1.
    std::int32_t rank() const noexcept { return rank_; }
    // The ranks that it is about: lost, late, missing, disagreeing or aborting.
    const std::vector<std::int32_t>& ranks() const noexcept { return ranks_; }
    // The collective that was interrupted, and its number on the communicator.
    roundel_collective_t collective() const noexcept { return collective_; }
    std::uint64_t sequence() const noexcept { return sequence_; }
    // What is left of the data that the failed call was given, and how far it had come on this rank.
    roundel_buffer_state_t buffer() const noexcept { return buffer_; }
    std::uint64_t done_bytes() const noexcept { return done_bytes_; }
    std::uint64_t total_bytes() const noexcept { return total_bytes_; }

private:
    roundel_result_t code_;
    std::string operation_;
    std::int32_t rank_ = -1;
    std::vector<std::int32_t> ranks_;
    roundel_collective_t collective_ = ROUNDEL_COLLECTIVE_NONE;
    std::uint64_t sequence_ = 0;
    roundel_buffer_state_t buffer_ = ROUNDEL_BUFFER_INTACT;
    std::uint64_t done_bytes_ = 0;
    std::uint64_t total_bytes_ = 0;
};

// Throws what a function returned, unless that is a success.
inline void check(roundel_result_t result) {
    if (result != ROUNDEL_SUCCESS) {
        throw Error::last(result);
    }
}

// The element type of a C++ type. Specialise it for types of your own, such as a half-precision float:
//     template <> struct roundel::Element<my_half> { static constexpr roundel_dtype_t dtype = ROUNDEL_FLOAT16; };
template <class T>
struct Element;
// clang-format off
template <> struct Element<std::int8_t> { static constexpr roundel_dtype_t dtype = ROUNDEL_INT8; };
template <> struct Element<std::uint8_t> { static constexpr roundel_dtype_t dtype = ROUNDEL_UINT8; };
template <> struct Element<std::int32_t> { static constexpr roundel_dtype_t dtype = ROUNDEL_INT32; };
template <> struct Element<std::uint32_t> { static constexpr roundel_dtype_t dtype = ROUNDEL_UINT32; };
template <> struct Element<std::int64_t> { static constexpr roundel_dtype_t dtype = ROUNDEL_INT64; };
template <> struct Element<std::uint64_t> { static constexpr roundel_dtype_t dtype = ROUNDEL_UINT64; };
template <> struct Element<float> { static constexpr roundel_dtype_t dtype = ROUNDEL_FLOAT32; };
template <> struct Element<double> { static constexpr roundel_dtype_t dtype = ROUNDEL_FLOAT64; };
// clang-format on

namespace detail {

// A handle with one owner. `give_back` is told when that goes away.
template <class Handle, roundel_result_t (*give_back)(Handle)>
class Owner {
public:
    explicit Owner(Handle handle = nullptr) noexcept : handle_(handle) {}
    Owner(Owner&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Owner& operator=(Owner&& other) noexcept {
        Owner old(std::exchange(handle_, std::exchange(other.handle_, nullptr)));
        return *this;
    }
    Owner(const Owner&) = delete;
    Owner& operator=(const Owner&) = delete;
    ~Owner() {
        if (handle_ != nullptr) {
            give_back(handle_);
        }
    }

    Handle get() const noexcept { return handle_; }
    Handle* put() noexcept { return &handle_; }
    Handle release() noexcept { return std::exchange(handle_, nullptr); }

private:
    Handle handle_;
};

template <class Container>
using element_of = std::remove_cv_t<std::remove_pointer_t<decltype(std::data(std::declval<Container&>()))>>;

template <class Container>
constexpr roundel_dtype_t dtype_of = Element<element_of<Container>>::dtype;

template <class In, class Out>
constexpr void same_elements() {
    static_assert(std::is_same_v<element_of<In>, element_of<Out>>, "both containers hold the same type");
}

[[noreturn]] inline void refuse(const char* operation, const std::string& what) {
    throw Error(ROUNDEL_ERROR_INVALID_ARGUMENT, operation, std::string(operation) + ": invalid argument: " + what);
}

inline void expect(const char* operation, const char* name, std::size_t size, std::size_t need) {
    if (size != need) {
        refuse(operation, std::string(name) + " has " + std::to_string(size) + " elements, the call needs "
                              + std::to_string(need));
    }
}

inline std::size_t sum(const std::vector<std::size_t>& counts) {
    std::size_t total = 0;
    for (std::size_t count : counts) {
        total += count;
    }
    return total;
}

}  // namespace detail

// Settings for new communicators: the ROUNDEL_* variables, and what is set here.
class Options {
public:
    Options() { check(roundel_options_create(owner_.put())); }

    // As in `Options().set("timeout_ms", 5000).set("transport", "tcp")`.
    Options& set(const std::string& name, const std::string& value) {
        check(roundel_options_set(owner_.get(), name.c_str(), value.c_str()));
        return *this;
    }
    template <class Number, std::enable_if_t<std::is_integral_v<Number>, int> = 0>
    Options& set(const std::string& name, Number value) {
        return set(name, std::to_string(+value));
    }

    roundel_options_t handle() const noexcept { return owner_.get(); }

private:
    detail::Owner<roundel_options_t, roundel_options_destroy> owner_;
};

// A reduction that multiplies this rank's input by a factor and then sums; use it where a roundel_reduce_op_t is asked.
class PreMulSum {
public:
    template <class T>
    explicit PreMulSum(T factor) {
        check(roundel_reduce_op_create_pre_mul_sum(&op_, &factor, Element<T>::dtype));
    }
    PreMulSum(const PreMulSum&) = delete;
    PreMulSum& operator=(const PreMulSum&) = delete;
    ~PreMulSum() { roundel_reduce_op_destroy(op_); }

    operator roundel_reduce_op_t() const noexcept { return op_; }

private:
    roundel_reduce_op_t op_ = ROUNDEL_SUM;
};

// Calls in flight. The destructor waits for their end and keeps silent about it; wait() tells.
class Work {
public:
    // True once the calls have ended, well or badly.
    bool test() const { return done(roundel_work_test(owner_.get())); }
    // Waits for the end; throws if it was a bad one.
    void wait() const { check(roundel_work_wait(owner_.get())); }
    // The same for at most so long: false when the calls are still in flight.
    bool wait_for(std::int64_t timeout_ms) const { return done(roundel_work_wait_for(owner_.get(), timeout_ms)); }

    // Takes over a handle that the C functions made.
    explicit Work(roundel_work_t handle) noexcept : owner_(handle) {}
    roundel_work_t handle() const noexcept { return owner_.get(); }

private:
    static bool done(roundel_result_t result) {
        if (result == ROUNDEL_IN_PROGRESS) {
            return false;
        }
        check(result);
        return true;
    }

    detail::Owner<roundel_work_t, roundel_work_free> owner_;
};

// One rank's handle on a group of ranks. The destructor leaves the group and waits for calls in flight.
class Communicator {
public:
    // Joins the job that a launcher started this process in; without one, a world of one.
    Communicator() { adopt([&](roundel_comm_t* comm) { return roundel_init(comm, nullptr); }); }
    explicit Communicator(const Options& options) {
        adopt([&](roundel_comm_t* comm) { return roundel_init(comm, options.handle()); });
    }
    // Joins as `rank` of `world` the job that `id` names.
    Communicator(const roundel_unique_id_t& id, std::int32_t rank, std::int32_t world) {
        adopt([&](roundel_comm_t* comm) { return roundel_comm_init_rank(comm, world, id, rank, nullptr); });
    }
    Communicator(const roundel_unique_id_t& id, std::int32_t rank, std::int32_t world, const Options& options) {
        adopt([&](roundel_comm_t* comm) { return roundel_comm_init_rank(comm, world, id, rank, options.handle()); });
    }
    // Takes over a handle that the C functions made.
    explicit Communicator(roundel_comm_t handle) : owner_(handle) { learn(); }

    // Becomes a rank of the job that runs and whose rank wrote this invitation(): waits until its members grow().
    static Communicator enlist(const std::string& invitation) { return enlist(invitation, nullptr); }
    static Communicator enlist(const std::string& invitation, const Options& options) {
        return enlist(invitation, options.handle());
    }

    // All ranks in this process, one for each thread of the caller's.
    static std::vector<Communicator> threads(std::int32_t world) { return threads(world, nullptr); }
    static std::vector<Communicator> threads(std::int32_t world, const Options& options) {
        return threads(world, options.handle());
    }

    std::int32_t rank() const noexcept { return rank_; }
    std::int32_t world() const noexcept { return world_; }
    std::int32_t epoch() const {
        std::int32_t epoch = 0;
        check(roundel_comm_epoch(owner_.get(), &epoch));
        return epoch;
    }
    std::vector<std::int32_t> members() const {
        std::vector<std::int32_t> members(ranks());
        check(roundel_comm_members(owner_.get(), members.data(), members.size()));
        return members;
    }
    std::int32_t host_count() const {
        std::int32_t hosts = 0;
        check(roundel_comm_host_count(owner_.get(), &hosts));
        return hosts;
    }
    std::int32_t host_of(std::int32_t rank) const {
        std::int32_t host = 0;
        check(roundel_comm_host_of(owner_.get(), rank, &host));
        return host;
    }
    std::string transport() const {
        const char* transport = "";
        check(roundel_comm_transport(owner_.get(), &transport));
        return transport;
    }
    std::string explain(roundel_collective_t collective, std::size_t count, roundel_dtype_t dtype,
                        roundel_reduce_op_t op = ROUNDEL_SUM, std::int32_t root = 0, bool in_place = false,
                        bool mapped = false) const {
        std::size_t need = 0;
        check(roundel_explain(collective, count, dtype, op, root, in_place, mapped, nullptr, 0, &need, owner_.get()));
        std::string text(need + 1, '\0');
        check(roundel_explain(collective, count, dtype, op, root, in_place, mapped, text.data(), text.size(), &need,
                              owner_.get()));
        text.resize(need);
        return text;
    }

    // Throws the error that ended the communicator, if one did.
    void status() const { check(roundel_comm_status(owner_.get())); }
    void abort(const std::string& reason) const { check(roundel_comm_abort(owner_.get(), reason.c_str())); }

    // The ranks of the same color; empty (see operator bool) for color -1.
    Communicator split(std::int32_t color, std::int64_t key) const {
        roundel_comm_t part = nullptr;
        check(roundel_comm_split(owner_.get(), color, key, &part));
        return part == nullptr ? Communicator(Empty{}) : Communicator(part);
    }
    // These ranks (their numbers here, in the new order), of which each makes this call and nobody else does.
    Communicator subset(const std::vector<std::int32_t>& ranks) const {
        roundel_comm_t part = nullptr;
        check(roundel_comm_subset(owner_.get(), ranks.data(), ranks.size(), &part));
        return Communicator(part);
    }
    // The ranks that live, all of which make this call: after a code of ROUNDEL_ERROR_PEER_LOST they go on with what it
    // gives.
    Communicator shrink() const {
        roundel_comm_t rest = nullptr;
        check(roundel_shrink(owner_.get(), &rest));
        return Communicator(rest);
    }
    // True when all ranks that live said true; the same on all of them.
    bool agree(bool flag) const {
        bool all = false;
        check(roundel_agree(owner_.get(), flag, &all));
        return all;
    }
    // For processes that are to join this job while it runs. Who reads it can join: pass it like a password.
    std::string invitation() const {
        char text[ROUNDEL_INVITATION_TEXT_BYTES];
        check(roundel_invitation(owner_.get(), text, sizeof text));
        return text;
    }
    // These ranks and then whoever waits in enlist(); empty (see operator bool) where nobody does. All ranks make this call,
    // between two steps of their work, and can use this communicator on.
    Communicator grow() const {
        roundel_comm_t grown = nullptr;
        check(roundel_grow(owner_.get(), &grown));
        return grown == nullptr ? Communicator(Empty{}) : Communicator(grown);
    }
    // False for what a split gave a rank without a color, for a grow() without newcomers, and for what was moved from.
    explicit operator bool() const noexcept { return owner_.get() != nullptr; }

    roundel_comm_t handle() const noexcept { return owner_.get(); }

    // Every call: as it is, and, all but all_reduce_preserving, with `_async`, which returns the Work.

    template <class Data>
    void all_reduce(Data&& data, roundel_reduce_op_t op) const {
        run(roundel_all_reduce, all_reduce_of(data, data, op));
    }
    template <class Data>
    [[nodiscard]] Work all_reduce_async(Data&& data, roundel_reduce_op_t op) const {
        return start(roundel_all_reduce_async, all_reduce_of(data, data, op));
    }
    template <class In, class Out>
    void all_reduce(const In& send, Out&& recv, roundel_reduce_op_t op) const {
        run(roundel_all_reduce, all_reduce_of(send, recv, op));
    }
    template <class In, class Out>
    [[nodiscard]] Work all_reduce_async(const In& send, Out&& recv, roundel_reduce_op_t op) const {
        return start(roundel_all_reduce_async, all_reduce_of(send, recv, op));
    }

    // In place on all ranks that live, or on none: when it throws, the data are as they were.
    template <class Data>
    void all_reduce_preserving(Data&& data, roundel_reduce_op_t op) const {
        check(roundel_all_reduce_preserving(std::data(data), std::size(data), detail::dtype_of<Data>, op, owner_.get()));
    }

    template <class In, class Out>
    void reduce(const In& send, Out&& recv, roundel_reduce_op_t op, std::int32_t root) const {
        run(roundel_reduce, reduce_of(send, recv, op, root));
    }
    template <class In, class Out>
    [[nodiscard]] Work reduce_async(const In& send, Out&& recv, roundel_reduce_op_t op, std::int32_t root) const {
        return start(roundel_reduce_async, reduce_of(send, recv, op, root));
    }

    template <class Data>
    void broadcast(Data&& data, std::int32_t root) const {
        run(roundel_broadcast, broadcast_of(data, root));
    }
    template <class Data>
    [[nodiscard]] Work broadcast_async(Data&& data, std::int32_t root) const {
        return start(roundel_broadcast_async, broadcast_of(data, root));
    }

    template <class In, class Out>
    void reduce_scatter(const In& send, Out&& recv, roundel_reduce_op_t op) const {
        run(roundel_reduce_scatter, reduce_scatter_of(send, recv, op));
    }
    template <class In, class Out>
    [[nodiscard]] Work reduce_scatter_async(const In& send, Out&& recv, roundel_reduce_op_t op) const {
        return start(roundel_reduce_scatter_async, reduce_scatter_of(send, recv, op));
    }
    template <class In, class Out>
    void reduce_scatter_v(const In& send, Out&& recv, const std::vector<std::size_t>& counts,
                          roundel_reduce_op_t op) const {
        run(roundel_reduce_scatter_v, reduce_scatter_v_of(send, recv, counts, op));
    }
    template <class In, class Out>
    [[nodiscard]] Work reduce_scatter_v_async(const In& send, Out&& recv, const std::vector<std::size_t>& counts,
                                              roundel_reduce_op_t op) const {
        return start(roundel_reduce_scatter_v_async, reduce_scatter_v_of(send, recv, counts, op));
    }

    template <class In, class Out>
    void all_gather(const In& send, Out&& recv) const {
        run(roundel_all_gather, all_gather_of(send, recv));
    }
    template <class In, class Out>
    [[nodiscard]] Work all_gather_async(const In& send, Out&& recv) const {
        return start(roundel_all_gather_async, all_gather_of(send, recv));
    }
    template <class In, class Out>
    void all_gather_v(const In& send, Out&& recv, const std::vector<std::size_t>& counts) const {
        run(roundel_all_gather_v, all_gather_v_of(send, recv, counts));
    }
    template <class In, class Out>
    [[nodiscard]] Work all_gather_v_async(const In& send, Out&& recv, const std::vector<std::size_t>& counts) const {
        return start(roundel_all_gather_v_async, all_gather_v_of(send, recv, counts));
    }

    template <class In, class Out>
    void gather(const In& send, Out&& recv, std::int32_t root) const {
        run(roundel_gather, gather_of(send, recv, root));
    }
    template <class In, class Out>
    [[nodiscard]] Work gather_async(const In& send, Out&& recv, std::int32_t root) const {
        return start(roundel_gather_async, gather_of(send, recv, root));
    }
    template <class In, class Out>
    void scatter(const In& send, Out&& recv, std::int32_t root) const {
        run(roundel_scatter, scatter_of(send, recv, root));
    }
    template <class In, class Out>
    [[nodiscard]] Work scatter_async(const In& send, Out&& recv, std::int32_t root) const {
        return start(roundel_scatter_async, scatter_of(send, recv, root));
    }

    template <class In, class Out>
    void all_to_all(const In& send, Out&& recv) const {
        run(roundel_all_to_all, all_to_all_of(send, recv));
    }
    template <class In, class Out>
    [[nodiscard]] Work all_to_all_async(const In& send, Out&& recv) const {
        return start(roundel_all_to_all_async, all_to_all_of(send, recv));
    }
    template <class In, class Out>
    void all_to_all_v(const In& send, const std::vector<std::size_t>& send_counts, Out&& recv,
                      const std::vector<std::size_t>& recv_counts) const {
        run(roundel_all_to_all_v, all_to_all_v_of(send, send_counts, recv, recv_counts));
    }
    template <class In, class Out>
    [[nodiscard]] Work all_to_all_v_async(const In& send, const std::vector<std::size_t>& send_counts, Out&& recv,
                                          const std::vector<std::size_t>& recv_counts) const {
        return start(roundel_all_to_all_v_async, all_to_all_v_of(send, send_counts, recv, recv_counts));
    }

    template <class In>
    void send(const In& data, std::int32_t to) const {
        run(roundel_send, std::make_tuple(std::data(data), std::size(data), detail::dtype_of<const In>, to));
    }
    template <class In>
    [[nodiscard]] Work send_async(const In& data, std::int32_t to) const {
        return start(roundel_send_async,
                     std::make_tuple(std::data(data), std::size(data), detail::dtype_of<const In>, to));
    }
    template <class Out>
    void recv(Out&& data, std::int32_t from) const {
        run(roundel_recv, std::make_tuple(std::data(data), std::size(data), detail::dtype_of<Out>, from));
    }
    template <class Out>
    [[nodiscard]] Work recv_async(Out&& data, std::int32_t from) const {
        return start(roundel_recv_async, std::make_tuple(std::data(data), std::size(data), detail::dtype_of<Out>, from));
    }
    template <class In, class Out>
    void sendrecv(const In& send, std::int32_t to, Out&& recv, std::int32_t from) const {
        run(roundel_sendrecv, sendrecv_of(send, to, recv, from));
    }
    template <class In, class Out>
    [[nodiscard]] Work sendrecv_async(const In& send, std::int32_t to, Out&& recv, std::int32_t from) const {
        return start(roundel_sendrecv_async, sendrecv_of(send, to, recv, from));
    }

    void barrier() const { check(roundel_barrier(owner_.get())); }
    [[nodiscard]] Work barrier_async() const { return start(roundel_barrier_async, std::tuple<>()); }

private:
    struct Empty {};
    explicit Communicator(Empty) noexcept {}

    template <class Init>
    void adopt(Init&& init) {
        check(init(owner_.put()));
        learn();
    }
    void learn() {
        check(roundel_comm_rank(owner_.get(), &rank_));
        check(roundel_comm_world(owner_.get(), &world_));
    }

    static Communicator enlist(const std::string& invitation, roundel_options_t options) {
        roundel_comm_t comm = nullptr;
        check(roundel_enlist(&comm, invitation.c_str(), options));
        return Communicator(comm);
    }

    static std::vector<Communicator> threads(std::int32_t world, roundel_options_t options) {
        std::vector<roundel_comm_t> handles(world > 0 ? static_cast<std::size_t>(world) : 1);
        check(roundel_comm_init_threads(handles.data(), world, options));
        std::vector<Communicator> ranks;
        ranks.reserve(handles.size());
        for (roundel_comm_t handle : handles) {
            ranks.emplace_back(handle);
        }
        return ranks;
    }

    template <class Function, class Arguments>
    void run(Function function, Arguments&& arguments) const {
        check(std::apply(function, std::tuple_cat(std::forward<Arguments>(arguments), std::make_tuple(owner_.get()))));
    }
    template <class Function, class Arguments>
    Work start(Function function, Arguments&& arguments) const {
        roundel_work_t work = nullptr;
        check(std::apply(function, std::tuple_cat(std::forward<Arguments>(arguments),
                                                  std::make_tuple(owner_.get(), &work))));
        return Work(work);
    }

    // An empty communicator passes for a world of one: the call itself then says what is wrong.
    std::size_t ranks() const noexcept { return world_ > 0 ? static_cast<std::size_t>(world_) : 1; }
    std::size_t me() const noexcept { return rank_ > 0 ? static_cast<std::size_t>(rank_) : 0; }

    // What each call hands to C, its lengths checked.

    template <class In, class Out>
    auto all_reduce_of(const In& send, Out& recv, roundel_reduce_op_t op) const {
        detail::same_elements<const In, Out>();
        detail::expect("roundel_all_reduce", "recv", std::size(recv), std::size(send));
        return std::make_tuple(std::data(send), std::data(recv), std::size(send), detail::dtype_of<Out>, op);
    }
    template <class In, class Out>
    auto reduce_of(const In& send, Out& recv, roundel_reduce_op_t op, std::int32_t root) const {
        detail::same_elements<const In, Out>();
        if (root == rank_) {
            detail::expect("roundel_reduce", "recv", std::size(recv), std::size(send));
        }
        return std::make_tuple(std::data(send), std::data(recv), std::size(send), detail::dtype_of<Out>, op, root);
    }
    template <class Data>
    auto broadcast_of(Data& data, std::int32_t root) const {
        return std::make_tuple(std::data(data), std::data(data), std::size(data), detail::dtype_of<Data>, root);
    }
    template <class In, class Out>
    auto reduce_scatter_of(const In& send, Out& recv, roundel_reduce_op_t op) const {
        detail::same_elements<const In, Out>();
        detail::expect("roundel_reduce_scatter", "send", std::size(send), std::size(recv) * ranks());
        return std::make_tuple(std::data(send), std::data(recv), std::size(recv), detail::dtype_of<Out>, op);
    }
    template <class In, class Out>
    auto reduce_scatter_v_of(const In& send, Out& recv, const std::vector<std::size_t>& counts,
                             roundel_reduce_op_t op) const {
        detail::same_elements<const In, Out>();
        const char* name = "roundel_reduce_scatter_v";
        detail::expect(name, "counts", counts.size(), ranks());
        detail::expect(name, "send", std::size(send), detail::sum(counts));
        detail::expect(name, "recv", std::size(recv), counts[me()]);
        return std::make_tuple(std::data(send), std::data(recv), counts.data(), detail::dtype_of<Out>, op);
    }
    template <class In, class Out>
    auto all_gather_of(const In& send, Out& recv) const {
        detail::same_elements<const In, Out>();
        detail::expect("roundel_all_gather", "recv", std::size(recv), std::size(send) * ranks());
        return std::make_tuple(std::data(send), std::data(recv), std::size(send), detail::dtype_of<Out>);
    }
    template <class In, class Out>
    auto all_gather_v_of(const In& send, Out& recv, const std::vector<std::size_t>& counts) const {
        detail::same_elements<const In, Out>();
        const char* name = "roundel_all_gather_v";
        detail::expect(name, "counts", counts.size(), ranks());
        detail::expect(name, "send", std::size(send), counts[me()]);
        detail::expect(name, "recv", std::size(recv), detail::sum(counts));
        return std::make_tuple(std::data(send), std::data(recv), counts.data(), detail::dtype_of<Out>);
    }
    template <class In, class Out>
    auto gather_of(const In& send, Out& recv, std::int32_t root) const {
        detail::same_elements<const In, Out>();
        if (root == rank_) {
            detail::expect("roundel_gather", "recv", std::size(recv), std::size(send) * ranks());
        }
        return std::make_tuple(std::data(send), std::data(recv), std::size(send), detail::dtype_of<Out>, root);
    }
    template <class In, class Out>
    auto scatter_of(const In& send, Out& recv, std::int32_t root) const {
        detail::same_elements<const In, Out>();
        if (root == rank_) {
            detail::expect("roundel_scatter", "send", std::size(send), std::size(recv) * ranks());
        }
        return std::make_tuple(std::data(send), std::data(recv), std::size(recv), detail::dtype_of<Out>, root);
    }
    template <class In, class Out>
    auto all_to_all_of(const In& send, Out& recv) const {
        detail::same_elements<const In, Out>();
        const char* name = "roundel_all_to_all";
        detail::expect(name, "recv", std::size(recv), std::size(send));
        detail::expect(name, "send", std::size(send), std::size(send) / ranks() * ranks());
        return std::make_tuple(std::data(send), std::data(recv), std::size(send) / ranks(), detail::dtype_of<Out>);
    }
    template <class In, class Out>
    auto all_to_all_v_of(const In& send, const std::vector<std::size_t>& send_counts, Out& recv,
                         const std::vector<std::size_t>& recv_counts) const {
        detail::same_elements<const In, Out>();
        const char* name = "roundel_all_to_all_v";
        detail::expect(name, "send_counts", send_counts.size(), ranks());
        detail::expect(name, "recv_counts", recv_counts.size(), ranks());
        detail::expect(name, "send", std::size(send), detail::sum(send_counts));
        detail::expect(name, "recv", std::size(recv), detail::sum(recv_counts));
        return std::make_tuple(std::data(send), send_counts.data(), std::data(recv), recv_counts.data(),
                               detail::dtype_of<Out>);
    }
    template <class In, class Out>
    auto sendrecv_of(const In& send, std::int32_t to, Out& recv, std::int32_t from) const {
        detail::same_elements<const In, Out>();
        return std::make_tuple(std::data(send), std::size(send), to, std::data(recv), std::size(recv), from,
                               detail::dtype_of<Out>);
    }

    detail::Owner<roundel_comm_t, roundel_comm_destroy> owner_;
    std::int32_t rank_ = -1;
    std::int32_t world_ = 0;
};

// Zeroed elements in memory that the other ranks of the host can map: calls on it need no staging copies.
template <class T>
class Buffer {
public:
    Buffer(const Communicator& comm, std::size_t count) : count_(count) {
        if (count > SIZE_MAX / sizeof(T)) {
            detail::refuse("roundel_alloc", std::to_string(count) + " elements overflow");
        }
        check(roundel_alloc(owner_.put(), count * sizeof(T), comm.handle()));
    }

    T* data() noexcept { return static_cast<T*>(owner_.get()); }
    const T* data() const noexcept { return static_cast<const T*>(owner_.get()); }
    std::size_t size() const noexcept { return owner_.get() == nullptr ? 0 : count_; }
    T* begin() noexcept { return data(); }
    T* end() noexcept { return data() + size(); }
    const T* begin() const noexcept { return data(); }
    const T* end() const noexcept { return data() + size(); }
    T& operator[](std::size_t index) noexcept { return data()[index]; }
    const T& operator[](std::size_t index) const noexcept { return data()[index]; }

private:
    detail::Owner<void*, roundel_free> owner_;
    std::size_t count_;
};

// Collects the calls that `body` makes on this thread, on any number of communicators, and runs them all at once. When
// `body` throws, nothing runs.
template <class Body>
void group(Body&& body) {
    check(roundel_group_start());
    try {
        body();
    } catch (...) {
        roundel_group_cancel();
        throw;
    }
    check(roundel_group_end());
}

// The same without waiting.
template <class Body>
[[nodiscard]] Work group_async(Body&& body) {
    check(roundel_group_start());
    try {
        body();
    } catch (...) {
        roundel_group_cancel();
        throw;
    }
    roundel_work_t work = nullptr;
    check(roundel_group_end_async(&work));
    return Work(work);
}

// Opens a job: see roundel_unique_id_create.
inline roundel_unique_id_t make_unique_id() {
    roundel_unique_id_t id;
    check(roundel_unique_id_create(&id));
    return id;
}

}  // namespace roundel

#endif  // ROUNDEL_HPP
