// What a GPU's compiler brings along and a CPU's does not. Everything above this file is plain C++17, compiled for GPUs by
// nvcc and, for tests, for CPUs by any compiler: the same source, so the same bits.
//
// On a CPU `reach.hpp`, found on the include path, has the other half: who a thread is, and what an address reaches.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i8 = signed char;
using i16 = short;
using i32 = int;
using i64 = long long;

// An address that the device reaches: memory of its own, or the host's where that is mapped for it.
using Address = u64;

// What a load in one go moves.
template <class W>
struct alignas(16) Vector {
    W word[16 / sizeof(W)];
};

#if defined(__CUDACC__)

#define DEVICE __device__ __forceinline__
#define UNROLLED _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
// The parameter stays where the driver put it: an array in it may be indexed without being copied.
#define PARAMETER const __grid_constant__

DEVICE float f32_of_bits(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 bits_of_f32(float value) { return __float_as_uint(value); }
DEVICE double f64_of_bits(u64 bits) { return __longlong_as_double(static_cast<i64>(bits)); }
DEVICE u64 bits_of_f64(double value) { return static_cast<u64>(__double_as_longlong(value)); }

// This thread's number among all of the launch, and how many they are.
DEVICE u64 thread_number() { return static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; }
DEVICE u64 thread_count() { return static_cast<u64>(gridDim.x) * blockDim.x; }

// `T` is aligned there. Written in PTX, because what operands and results lie in is never shared or local memory, and from C++
// every access would ask the hardware which; and because loads stay in front of the stores that follow them.
template <class T>
DEVICE T load(Address at);
template <class T>
DEVICE void store(Address at, T value);

#define MOVES(T, R, CONSTRAINT, WIDTH) \
    template <> \
    DEVICE T load<T>(Address at) { \
        R value; \
        asm volatile("ld.global." WIDTH " %0, [%1];" : "=" CONSTRAINT(value) : "l"(at) : "memory"); \
        return static_cast<T>(value); \
    } \
    template <> \
    DEVICE void store<T>(Address at, T value) { \
        asm volatile("st.global." WIDTH " [%0], %1;" ::"l"(at), CONSTRAINT(static_cast<R>(value)) : "memory"); \
    }
MOVES(u8, u32, "r", "u8")
MOVES(u16, u16, "h", "u16")
MOVES(u32, u32, "r", "u32")
MOVES(u64, u64, "l", "u64")
#undef MOVES

template <>
DEVICE Vector<u32> load<Vector<u32>>(Address at) {
    Vector<u32> v;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3]) : "l"(at) : "memory");
    return v;
}

template <>
DEVICE void store<Vector<u32>>(Address at, Vector<u32> v) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
                 ::"l"(at), "r"(v.word[0]), "r"(v.word[1]), "r"(v.word[2]), "r"(v.word[3]) : "memory");
}

template <>
DEVICE Vector<u64> load<Vector<u64>>(Address at) {
    Vector<u64> v;
    asm volatile("ld.global.v2.u64 {%0, %1}, [%2];" : "=l"(v.word[0]), "=l"(v.word[1]) : "l"(at) : "memory");
    return v;
}

template <>
DEVICE void store<Vector<u64>>(Address at, Vector<u64> v) {
    asm volatile("st.global.v2.u64 [%0], {%1, %2};" ::"l"(at), "l"(v.word[0]), "l"(v.word[1]) : "memory");
}

// That many addresses in the device's memory.
DEVICE const Address *table_at(Address at, u32) { return reinterpret_cast<const Address *>(at); }

#else

#define DEVICE inline
#define UNROLLED
#define ROLLED
#define PARAMETER const &

#include "reach.hpp"

#endif
