// Memory of the stand-in's device, and of the host where the device reaches it.
//
//   address                                    who may use it
//   window + x                                 the device only: for the host there is nothing, and a touch ends the process
//   alias + x                                  the same bytes, for the stand-in itself
//   host memory + REGISTERED                   the device's name for host memory that was registered
//
// Every access of a kernel is looked up: it must be aligned, and inside one piece of memory that the device has.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

namespace memory {

constexpr uint64_t WINDOW_BYTES = 64ull << 30, PAGE = 4096;
// Device pointers of registered memory differ from the host's, as CUDA allows.
constexpr uint64_t REGISTERED = 1ull << 52;
constexpr unsigned char POISON = 0xA5;
constexpr int ILLEGAL_ADDRESS = 700, MISALIGNED_ADDRESS = 716;

struct Fault {
    int error;
};

enum class Kind { Device = 2, Host = 1 };

struct Piece {
    uint64_t device, len_bytes;
    unsigned char *bytes;
    Kind kind;
    bool is_registered;
};
using Pieces = std::vector<Piece>;

class Map {
    std::mutex lock;
    // Replaced whole, so that a running kernel keeps what it began with.
    std::shared_ptr<const Pieces> pieces = std::make_shared<Pieces>();
    unsigned char *window = nullptr, *alias = nullptr;
    uint64_t used = 0;

    void change(const std::function<void(Pieces &)> &how) {
        auto changed = std::make_shared<Pieces>(*pieces);
        how(*changed);
        std::sort(changed->begin(), changed->end(), [](const Piece &a, const Piece &b) { return a.device < b.device; });
        pieces = changed;
    }

    void open_window() {
        const int file = memfd_create("stand-in", MFD_CLOEXEC);
        const int flags = MAP_NORESERVE;
        void *there = mmap(nullptr, WINDOW_BYTES, PROT_NONE, flags | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        void *here = MAP_FAILED;
        if (file >= 0 && ftruncate(file, WINDOW_BYTES) == 0)
            here = mmap(nullptr, WINDOW_BYTES, PROT_READ | PROT_WRITE, flags | MAP_SHARED, file, 0);
        if (there == MAP_FAILED || here == MAP_FAILED) {
            std::perror("stand-in: no room for device memory");
            std::abort();
        }
        window = static_cast<unsigned char *>(there), alias = static_cast<unsigned char *>(here);
    }

   public:
    std::shared_ptr<const Pieces> all() {
        std::lock_guard guard(lock);
        return pieces;
    }

    // Zero where there is no more. Nothing is ever given out twice.
    uint64_t allocate(uint64_t len_bytes) {
        std::lock_guard guard(lock);
        if (!window) open_window();
        const uint64_t room = (len_bytes + PAGE - 1) / PAGE * PAGE + PAGE;
        if (len_bytes > WINDOW_BYTES || room > WINDOW_BYTES - used) return 0;
        const Piece piece{reinterpret_cast<uint64_t>(window) + used, len_bytes, alias + used, Kind::Device, false};
        used += room;
        std::memset(piece.bytes, POISON, len_bytes);
        change([&](Pieces &all) { all.push_back(piece); });
        return piece.device;
    }

    void add_host(void *start, uint64_t len_bytes, bool is_registered) {
        std::lock_guard guard(lock);
        const uint64_t device = reinterpret_cast<uint64_t>(start) + (is_registered ? REGISTERED : 0);
        const Piece piece{device, len_bytes, static_cast<unsigned char *>(start), Kind::Host, is_registered};
        change([&](Pieces &all) { all.push_back(piece); });
    }

    // Forgets the piece that begins there; false where none does.
    bool remove(uint64_t device) {
        std::lock_guard guard(lock);
        bool found = false;
        change([&](Pieces &all) {
            const auto is_it = [&](const Piece &piece) { return piece.device == device; };
            const auto it = std::find_if(all.begin(), all.end(), is_it);
            found = it != all.end();
            if (!found) return;
            if (it->kind == Kind::Device) madvise(it->bytes, it->len_bytes, MADV_REMOVE);
            all.erase(it);
        });
        return found;
    }

    // The piece that an address of either side is in.
    bool find(uint64_t address, Piece &found) {
        for (const Piece &piece : *all()) {
            const uint64_t host = reinterpret_cast<uint64_t>(piece.bytes);
            const bool by_host = piece.kind == Kind::Host && address - host < piece.len_bytes;
            if (by_host || address - piece.device < piece.len_bytes) return found = piece, true;
        }
        return false;
    }

    bool is_in_window(uint64_t address) {
        std::lock_guard guard(lock);
        return window && address - reinterpret_cast<uint64_t>(window) < WINDOW_BYTES;
    }

    // For copies, which take addresses of all kinds: those that are nobody's belong to the host.
    unsigned char *for_copy(uint64_t address, uint64_t len_bytes) {
        Piece piece;
        if (find(address, piece)) {
            const bool by_device = address - piece.device < piece.len_bytes;
            const uint64_t offset = address - (by_device ? piece.device : reinterpret_cast<uint64_t>(piece.bytes));
            if (len_bytes > piece.len_bytes - offset) throw Fault{ILLEGAL_ADDRESS};
            return piece.bytes + offset;
        }
        if (is_in_window(address)) throw Fault{ILLEGAL_ADDRESS};
        return reinterpret_cast<unsigned char *>(address);
    }
};

inline Map &map() {
    static Map *one = new Map;
    return *one;
}

// What a launch that runs on this thread reaches.
inline thread_local std::shared_ptr<const Pieces> reached;

}  // namespace memory

namespace reach {

inline unsigned char *bytes_at(Address at, u64 len_bytes) {
    if (at % len_bytes != 0) throw memory::Fault{memory::MISALIGNED_ADDRESS};
    const auto &pieces = *memory::reached;
    auto after = std::upper_bound(pieces.begin(), pieces.end(), at,
                                  [](Address address, const memory::Piece &piece) { return address < piece.device; });
    if (after == pieces.begin()) throw memory::Fault{memory::ILLEGAL_ADDRESS};
    const memory::Piece &piece = *--after;
    const u64 offset = at - piece.device;
    if (offset >= piece.len_bytes || len_bytes > piece.len_bytes - offset) throw memory::Fault{memory::ILLEGAL_ADDRESS};
    return piece.bytes + offset;
}

}  // namespace reach
