// The kernels by name, one module for each element type: `reduce_<shape>_<type>_<op>`, `scale_<type>`, and `copy`, which
// knows no types.
//
//   shape   operands
//   two     2, each element at a multiple of its size
//   eight   1 to 8, likewise
//   any     any number, anywhere
//
// What does not depend on an integer's sign is there once, in the module of the unsigned type.
#pragma once
#include "reduce.cuh"

// Threads of a block; `src/device/cuda/reduction.rs` launches that many.
#define BLOCK 256

#if defined(__CUDACC__)
#define ENTRY(NAME, OPERANDS, BODY) \
    extern "C" __global__ void __launch_bounds__(BLOCK) NAME(PARAMETER Reduction<OPERANDS> call) { BODY; }
#else
#define ENTRY(NAME, OPERANDS, BODY) \
    static void NAME(const Reduction<OPERANDS> &call) { BODY; } \
    static const reach::Entry<Reduction<OPERANDS>> entry_##NAME{#NAME, NAME};
#endif

#define REDUCE(TYPE, OP, ...) \
    ENTRY(reduce_two_##TYPE##_##OP, 8, (reduce_few<__VA_ARGS__, 2, 2>(call))) \
    ENTRY(reduce_eight_##TYPE##_##OP, 8, (reduce_few<__VA_ARGS__, 8, 1>(call))) \
    ENTRY(reduce_any_##TYPE##_##OP, WITH_LAUNCH, (reduce_any<__VA_ARGS__>(call)))

#define SCALE(TYPE, ...) ENTRY(scale_##TYPE, 8, (reduce_few<__VA_ARGS__, 1, 2>(call)))

#define SIGN_DEPENDENT(TYPE) \
    REDUCE(TYPE, min, OfIntegers<TYPE, true>) \
    REDUCE(TYPE, max, OfIntegers<TYPE, false>) \
    REDUCE(TYPE, avg, Avg<TYPE>)

#define UNSIGNED_MODULE(TYPE) \
    SIGN_DEPENDENT(TYPE) \
    REDUCE(TYPE, sum, Sum<TYPE>) \
    REDUCE(TYPE, prod, Prod<TYPE>) \
    REDUCE(TYPE, and, And<TYPE>) \
    REDUCE(TYPE, or, Or<TYPE>) \
    REDUCE(TYPE, xor, Xor<TYPE>) \
    SCALE(TYPE, Scaled<TYPE>)

#define FLOAT_MODULE(TYPE, FORMAT) \
    REDUCE(TYPE, sum, FloatSum<FORMAT>) \
    REDUCE(TYPE, prod, FloatProd<FORMAT>) \
    REDUCE(TYPE, min, OfFloats<FORMAT, true>) \
    REDUCE(TYPE, max, OfFloats<FORMAT, false>) \
    REDUCE(TYPE, avg, FloatAvg<FORMAT>) \
    SCALE(TYPE, FloatScaled<FORMAT>)

#define MODULE_i8 SIGN_DEPENDENT(i8)
#define MODULE_u8 UNSIGNED_MODULE(u8)
#define MODULE_i32 SIGN_DEPENDENT(i32)
#define MODULE_u32 UNSIGNED_MODULE(u32)
#define MODULE_i64 SIGN_DEPENDENT(i64)
#define MODULE_u64 UNSIGNED_MODULE(u64)
#define MODULE_f16 FLOAT_MODULE(f16, F16)
#define MODULE_bf16 FLOAT_MODULE(bf16, Bf16)
#define MODULE_f32 FLOAT_MODULE(f32, F32)
#define MODULE_f64 FLOAT_MODULE(f64, F64)
#define MODULE_f8e4m3 FLOAT_MODULE(f8e4m3, E4m3)
#define MODULE_f8e5m2 FLOAT_MODULE(f8e5m2, E5m2)
#define MODULE_copy ENTRY(copy, 8, (reduce_few<Same<u8>, 1, 4>(call)))
