// The CPU's half of `kernels/platform.cuh`: what lets the kernels run here, a thread after another, with every address they
// use looked at first.
#pragma once
#include <cstddef>
#include <cstring>
#include <functional>
#include <map>
#include <string>

namespace reach {

// Who the running GPU thread is.
struct Place {
    u64 number, count;
};
inline thread_local Place place;

// Where the bytes at a device's address are for this process. Throws what a GPU would report of an access that it may not make.
unsigned char *bytes_at(Address at, u64 len_bytes);

struct Kernel {
    size_t call_bytes;
    std::function<void(const void *call)> run;
};

inline std::map<std::string, Kernel> &kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

// Adds a kernel to the list.
template <class Call>
struct Entry {
    Entry(const char *name, void (*kernel)(const Call &)) {
        kernels()[name] = {sizeof(Call), [kernel](const void *call) { kernel(*static_cast<const Call *>(call)); }};
    }
};

template <class To, class From>
To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

}  // namespace reach

inline float f32_of_bits(u32 bits) { return reach::same_bits<float>(bits); }
inline u32 bits_of_f32(float value) { return reach::same_bits<u32>(value); }
inline double f64_of_bits(u64 bits) { return reach::same_bits<double>(bits); }
inline u64 bits_of_f64(double value) { return reach::same_bits<u64>(value); }

inline u64 thread_number() { return reach::place.number; }
inline u64 thread_count() { return reach::place.count; }

template <class T>
T load(Address at) {
    T value;
    std::memcpy(&value, reach::bytes_at(at, sizeof(T)), sizeof(T));
    return value;
}

template <class T>
void store(Address at, T value) {
    std::memcpy(reach::bytes_at(at, sizeof(T)), &value, sizeof(T));
}

inline const Address *table_at(Address at, u32 count) {
    // All in one piece, so from the first to the last.
    reach::bytes_at(at + 8ull * (count - 1), sizeof(Address));
    return reinterpret_cast<const Address *>(reach::bytes_at(at, sizeof(Address)));
}
