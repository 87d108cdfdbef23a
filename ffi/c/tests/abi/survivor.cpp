// roundel.hpp through a death and a birth: rank 1 of three leaves, the others shrink, and a newcomer joins them. As threads.
#include <cstdio>
#include <cstdlib>
#include <roundel.hpp>
#include <thread>

#include "expect.h"

using roundel::Communicator;

static void lives(const Communicator& comm) {
    std::vector<float> data(1000, 1.0f);
    try {
        comm.all_reduce_preserving(data, ROUNDEL_SUM);
        EXPECT(!"rank 1 has left");
    } catch (const roundel::Error& error) {
        EXPECT(error.code() == ROUNDEL_ERROR_PEER_LOST && error.ranks() == std::vector<std::int32_t>{1});
    }
    EXPECT(data == std::vector<float>(1000, 1.0f));
    Communicator rest = comm.shrink();
    EXPECT(rest.world() == 2 && rest.epoch() == 1 && (rest.members() == std::vector<std::int32_t>{0, 2}));
    EXPECT(!rest.agree(rest.rank() == 0) && rest.agree(true));
    std::thread newcomer;
    if (rest.rank() == 0) {
        newcomer = std::thread([invitation = rest.invitation()] {
            Communicator joined = Communicator::enlist(invitation, roundel::Options().set("timeout_ms", 60000));
            std::int32_t sum[1] = {1};
            joined.all_reduce_preserving(sum, ROUNDEL_SUM);
            EXPECT(sum[0] == 3 && joined.rank() == 2);
        });
    }
    Communicator grown = rest.grow();
    while (!grown) {
        grown = rest.grow();
    }
    EXPECT(grown.world() == 3 && grown.epoch() == 2 && grown.rank() == rest.rank());
    std::int32_t sum[1] = {1};
    grown.all_reduce_preserving(sum, ROUNDEL_SUM);
    EXPECT(sum[0] == 3);
    if (newcomer.joinable()) {
        newcomer.join();
    }
}

int main() {
    std::vector<Communicator> ranks = Communicator::threads(3, roundel::Options().set("timeout_ms", 60000));
    { Communicator leaves = std::move(ranks[1]); }
    std::thread other(lives, std::cref(ranks[2]));
    lives(ranks[0]);
    other.join();
    std::printf("\n@@passed\n");
    return 0;
}
