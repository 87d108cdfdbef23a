// roundel.hpp as one rank of a job, and with the ranks as threads.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <roundel.hpp>
#include <thread>

#include "expect.h"

using roundel::Communicator;
using Counts = std::vector<std::size_t>;

// A number type of the user's.
struct Half {
    std::uint16_t bits;
};
template <>
struct roundel::Element<Half> {
    static constexpr roundel_dtype_t dtype = ROUNDEL_FLOAT16;
};

static_assert(!std::is_copy_constructible_v<Communicator> && std::is_nothrow_move_constructible_v<Communicator>);
static_assert(!std::is_copy_constructible_v<roundel::Work> && std::is_nothrow_move_assignable_v<roundel::Work>);
static_assert(!std::is_copy_constructible_v<roundel::Buffer<float>>);

template <class Body>
static roundel::Error error_of(Body&& body) {
    try {
        body();
    } catch (const roundel::Error& error) {
        return error;
    }
    std::fprintf(stderr, "nothing was thrown\n");
    std::exit(1);
}

static void every_call(const Communicator& comm) {
    const auto me = comm.rank(), n = comm.world();
    const auto ranks = static_cast<std::size_t>(n), rank = static_cast<std::size_t>(me);
    const std::int32_t all = n * (n - 1) / 2;
    const std::vector<std::int32_t> mine(6, me);
    std::vector<std::int32_t> out(6), blocks(6 * ranks), wide(6 * ranks, me);

    comm.all_reduce(mine, out, ROUNDEL_SUM);
    EXPECT(out == std::vector<std::int32_t>(6, all));
    comm.all_reduce(out, ROUNDEL_MAX);
    EXPECT(out[5] == all);
    std::int64_t plain[3] = {me, 1, -me};
    comm.all_reduce(plain, ROUNDEL_MIN);
    EXPECT(plain[0] == 0 && plain[1] == 1 && plain[2] == 1 - n);
    comm.all_reduce_async(mine, out, ROUNDEL_SUM).wait();
    auto work = comm.all_reduce_async(out, ROUNDEL_MIN);
    while (!work.wait_for(50)) {
    }
    EXPECT(work.test() && out[0] == all);
    comm.all_reduce(mine, out, roundel::PreMulSum(std::int32_t{3}));
    EXPECT(out[2] == 3 * all);
    std::array<Half, 4> halves;
    halves.fill(Half{0x3c00});
    comm.all_reduce(halves, ROUNDEL_PROD);
    EXPECT(halves[3].bits == 0x3c00);

    comm.reduce(mine, out, ROUNDEL_SUM, n - 1);
    EXPECT(me != n - 1 || out[0] == all);
    comm.reduce_async(mine, out, ROUNDEL_MAX, 0).wait();
    EXPECT(me != 0 || out[0] == n - 1);
    out.assign(6, me);
    comm.broadcast(out, n - 1);
    EXPECT(out[3] == n - 1);
    out.assign(6, me);
    comm.broadcast_async(out, 0).wait();
    EXPECT(out[3] == 0);

    comm.reduce_scatter(wide, out, ROUNDEL_SUM);
    EXPECT(out[1] == all);
    comm.reduce_scatter_async(wide, out, ROUNDEL_MAX).wait();
    EXPECT(out[1] == n - 1);
    comm.all_gather(mine, blocks);
    EXPECT(blocks.front() == 0 && blocks.back() == n - 1);
    blocks.assign(blocks.size(), -1);
    comm.all_gather_async(mine, blocks).wait();
    EXPECT(blocks.front() == 0 && blocks.back() == n - 1);

    Counts counts(ranks);
    std::iota(counts.begin(), counts.end(), std::size_t{0});
    const std::vector<std::int32_t> part(rank, me);
    std::vector<std::int32_t> parts(ranks * (ranks - 1) / 2), block(rank);
    comm.all_gather_v(part, parts, counts);
    EXPECT(n == 1 || parts.back() == n - 1);
    parts.assign(parts.size(), -1);
    comm.all_gather_v_async(part, parts, counts).wait();
    EXPECT(n == 1 || (parts.front() == 1 && parts.back() == n - 1));
    comm.reduce_scatter_v(parts, block, counts, ROUNDEL_MAX);
    EXPECT(rank == 0 || block[0] == me);
    comm.reduce_scatter_v_async(parts, block, counts, ROUNDEL_MIN).wait();
    EXPECT(rank == 0 || block[rank - 1] == me);

    blocks.assign(blocks.size(), -1);
    comm.gather(mine, blocks, 0);
    EXPECT(me != 0 || blocks.back() == n - 1);
    comm.gather_async(mine, blocks, n - 1).wait();
    EXPECT(me != n - 1 || blocks.front() == 0);
    comm.scatter(wide, out, n - 1);
    EXPECT(out[0] == n - 1);
    comm.scatter_async(wide, out, 0).wait();
    EXPECT(out[0] == 0);
    comm.all_to_all(wide, blocks);
    EXPECT(blocks.front() == 0 && blocks.back() == n - 1);
    comm.all_to_all_async(wide, blocks).wait();
    EXPECT(blocks.front() == 0 && blocks.back() == n - 1);
    const Counts twos(ranks, 2);
    std::vector<std::int32_t> pairs(2 * ranks, me), got(2 * ranks);
    comm.all_to_all_v(pairs, twos, got, twos);
    EXPECT(got.front() == 0 && got.back() == n - 1);
    comm.all_to_all_v_async(pairs, twos, got, twos).wait();
    EXPECT(got.front() == 0 && got.back() == n - 1);

    const std::int32_t right = (me + 1) % n, left = (me + n - 1) % n;
    comm.sendrecv(mine, right, out, left);
    EXPECT(out[4] == left);
    comm.sendrecv_async(mine, left, out, right).wait();
    EXPECT(out[4] == right);
    roundel::group([&] {
        comm.send(mine, right);
        comm.recv(out, left);
    });
    EXPECT(out[4] == left);
    auto both = roundel::group_async([&] {
        comm.send(mine, left);
        comm.recv(out, right);
    });
    both.wait();
    EXPECT(out[4] == right);
    if (n > 1) {
        auto received = comm.recv_async(out, left);
        comm.send_async(mine, right).wait();
        received.wait();
        EXPECT(out[4] == left);
    }

    roundel::Buffer<double> mapped(comm, 100);
    for (double& element : mapped) {
        element = me;
    }
    comm.all_reduce(mapped, ROUNDEL_AVG);
    EXPECT(mapped[99] == (n - 1) / 2.0);
    roundel::Buffer<double> moved = std::move(mapped);
    EXPECT(moved.size() == 100 && mapped.size() == 0);

    Communicator half = comm.split(me % 2 == 0 ? 0 : -1, 0);
    EXPECT(static_cast<bool>(half) == (me % 2 == 0));
    EXPECT(!half || half.world() == (n + 1) / 2);
    EXPECT(comm.host_of(n - 1) < comm.host_count() && !comm.transport().empty());
    EXPECT(comm.explain(ROUNDEL_COLLECTIVE_ALL_GATHER, 100, ROUNDEL_FLOAT32).find("rank") != std::string::npos);
    comm.barrier_async().wait();
    comm.barrier();
    comm.status();
}

static void errors(const Communicator& comm) {
    std::vector<float> three(3), four(4);
    const auto lengths = error_of([&] { comm.all_reduce(three, four, ROUNDEL_SUM); });
    EXPECT(lengths.code() == ROUNDEL_ERROR_INVALID_ARGUMENT && lengths.operation() == "roundel_all_reduce");
    const auto bits = error_of([&] { comm.all_reduce(three, ROUNDEL_BIT_XOR); });
    EXPECT(bits.code() == ROUNDEL_ERROR_INVALID_ARGUMENT && bits.rank() == comm.rank());
    EXPECT(std::string(bits.what()).find("integers") != std::string::npos);
    // An exception on the way: nothing of the group runs.
    const auto inside = error_of([&] {
        roundel::group([&] {
            comm.broadcast(three, 0);
            comm.all_reduce(three, four, ROUNDEL_SUM);
        });
    });
    EXPECT(inside.operation() == "roundel_all_reduce");
    Communicator nothing = comm.split(-1, 0);
    EXPECT(!nothing && error_of([&] { nothing.barrier(); }).code() == ROUNDEL_ERROR_INVALID_HANDLE);
    EXPECT(error_of([&] { nothing.all_to_all(three, three); }).code() == ROUNDEL_ERROR_INVALID_HANDLE);
    EXPECT(error_of([] { roundel::Options().set("algo", "fastest"); }).operation() == "roundel_options_set");
    comm.barrier();
}

static void threads() {
    auto options = std::move(roundel::Options().set("timeout_ms", 60000));
    auto ranks = Communicator::threads(3, options);
    std::vector<std::thread> running;
    for (const auto& comm : ranks) {
        running.emplace_back([&comm] { every_call(comm); });
    }
    for (auto& thread : running) {
        thread.join();
    }
    // The same id by hand, as a program would do that spreads it itself.
    const auto id = roundel::make_unique_id();
    std::thread other([id] { Communicator(id, 1, 2).barrier(); });
    Communicator(id, 0, 2).barrier();
    other.join();
    // Ranks that disagree: both sides learn which.
    std::array<std::vector<roundel::Error>, 2> thrown;
    auto two = Communicator::threads(2);
    std::thread sums([&] {
        std::vector<float> data(4);
        thrown[0].push_back(error_of([&] { two[0].all_reduce(data, ROUNDEL_SUM); }));
    });
    std::vector<float> data(5);
    thrown[1].push_back(error_of([&] { two[1].all_reduce(data, ROUNDEL_SUM); }));
    sums.join();
    for (const auto& errors : thrown) {
        EXPECT(errors[0].code() == ROUNDEL_ERROR_MISMATCH && errors[0].ranks().size() == 2);
        EXPECT(errors[0].collective() == ROUNDEL_COLLECTIVE_ALL_REDUCE && errors[0].sequence() == 0);
    }
    // One more abort than needed.
    two[0].abort("enough");
    EXPECT(error_of([&] { two[1].status(); }).code() == ROUNDEL_ERROR_MISMATCH);
}

int main() {
    {
        Communicator comm;
        every_call(comm);
        errors(comm);
        Communicator moved = std::move(comm);
        moved.barrier();
        EXPECT(!comm && moved);
    }
    threads();
    std::puts("\n@@passed");
    return 0;
}
