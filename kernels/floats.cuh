// The floats in memory: bits to the type that computes (always exact) and back (nearest, ties to even; NaN becomes the
// format's one canonical NaN). The same arithmetic as the host's `device/host/convert.rs`, in integers and f32 that every
// architecture has: the conversion instructions of newer GPUs saturate, or keep other NaNs.
//
//   f32    s eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm    bias 127
//   bf16   s eeeeeeee mmmmmmm                    bias 127
//   f16    s eeeee    mmmmmmmmmm                 bias 15
//   e5m2   s eeeee    mm                         bias 15
//   e4m3   s eeee     mmm                        bias 7, no infinity; only s1111111 is NaN
#pragma once
#include "platform.cuh"

namespace floats {

constexpr u32 MAGNITUDE = 0x7fffffff;
constexpr u32 INFINITE = 0x7f800000;
constexpr u32 QUIET_NAN = 0x7fc00000;

// The finite magnitude `code` of a format with M mantissa bits and this bias, as bits of f32. Moved into place it is a number
// that is too small by a power of two, subnormal ones included.
template <u32 M, u32 BIAS>
DEVICE u32 widened(u32 code) {
    const float power = f32_of_bits((127 + 127 - BIAS) << 23);
    return bits_of_f32(f32_of_bits(code << (23 - M)) * power);
}

// The code nearest to a magnitude, in a format with M mantissa bits and this bias whose exponent has no upper end: the caller
// says what overflow becomes.
//
// A normal number is rounded by adding just under half a unit, or half a unit when it is odd, and cutting. For a subnormal one
// the addition unit does it: added to the number whose last bit is worth the smallest subnormal, the result's low bits
// are the code.
template <u32 M, u32 BIAS>
DEVICE u32 narrowed(u32 magnitude) {
    constexpr u32 DROPPED = 23 - M;
    constexpr u32 UNIT = (127 - BIAS + 1 - M + 23) << 23;
    const u32 odd = magnitude >> DROPPED & 1;
    const u32 rebiased = magnitude - ((127 - BIAS) << 23);
    const u32 normal = (rebiased + (1u << (DROPPED - 1)) - 1 + odd) >> DROPPED;
    const u32 subnormal = bits_of_f32(f32_of_bits(magnitude) + f32_of_bits(UNIT)) - UNIT;
    return magnitude < (127 - BIAS + 1) << 23 ? subnormal : normal;
}

DEVICE u32 least(u32 a, u32 b) { return a < b ? a : b; }

}  // namespace floats

struct F16 {
    using Bits = u16;
    using Real = float;
    static constexpr Bits GREATEST = 0x7c00, NOT_A_NUMBER = 0x7e00;

    static DEVICE float widen(u16 bits) {
        const u32 code = bits & 0x7fff;
        const u32 magnitude = code >= 0x7c00 ? code << 13 | floats::INFINITE : floats::widened<10, 15>(code);
        return f32_of_bits(magnitude | static_cast<u32>(bits & 0x8000) << 16);
    }

    static DEVICE u16 narrow(float value) {
        const u32 bits = bits_of_f32(value);
        const u32 magnitude = floats::least(floats::narrowed<10, 15>(bits & floats::MAGNITUDE), 0x7c00);
        return static_cast<u16>(value != value ? NOT_A_NUMBER : magnitude | (bits >> 16 & 0x8000));
    }
};

struct Bf16 {
    using Bits = u16;
    using Real = float;
    static constexpr Bits GREATEST = 0x7f80, NOT_A_NUMBER = 0x7fc0;

    static DEVICE float widen(u16 bits) { return f32_of_bits(static_cast<u32>(bits) << 16); }

    static DEVICE u16 narrow(float value) {
        const u32 bits = bits_of_f32(value);
        const u32 rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        return static_cast<u16>(value != value ? NOT_A_NUMBER : rounded);
    }
};

struct E4m3 {
    using Bits = u8;
    using Real = float;
    static constexpr Bits GREATEST = 0x7e, NOT_A_NUMBER = 0x7f;

    static DEVICE float widen(u8 bits) {
        const u32 code = bits & 0x7f;
        const u32 magnitude = code == 0x7f ? floats::QUIET_NAN : floats::widened<3, 7>(code);
        return f32_of_bits(magnitude | static_cast<u32>(bits & 0x80) << 24);
    }

    // What rounds to more than 448 becomes NaN, as infinity does.
    static DEVICE u8 narrow(float value) {
        const u32 bits = bits_of_f32(value);
        const u32 magnitude = floats::narrowed<3, 7>(bits & floats::MAGNITUDE);
        const bool is_number = magnitude < 0x7f && value == value;
        return static_cast<u8>(is_number ? magnitude | (bits >> 24 & 0x80) : NOT_A_NUMBER);
    }
};

struct E5m2 {
    using Bits = u8;
    using Real = float;
    static constexpr Bits GREATEST = 0x7c, NOT_A_NUMBER = 0x7e;

    static DEVICE float widen(u8 bits) {
        const u32 code = bits & 0x7f;
        const u32 magnitude = code >= 0x7c ? code << 21 | floats::INFINITE : floats::widened<2, 15>(code);
        return f32_of_bits(magnitude | static_cast<u32>(bits & 0x80) << 24);
    }

    static DEVICE u8 narrow(float value) {
        const u32 bits = bits_of_f32(value);
        const u32 magnitude = floats::least(floats::narrowed<2, 15>(bits & floats::MAGNITUDE), 0x7c);
        return static_cast<u8>(value != value ? NOT_A_NUMBER : magnitude | (bits >> 24 & 0x80));
    }
};

struct F32 {
    using Bits = u32;
    using Real = float;
    static constexpr Bits GREATEST = 0x7f800000, NOT_A_NUMBER = 0x7fc00000;

    static DEVICE float widen(u32 bits) { return f32_of_bits(bits); }
    static DEVICE u32 narrow(float value) { return value != value ? NOT_A_NUMBER : bits_of_f32(value); }
};

struct F64 {
    using Bits = u64;
    using Real = double;
    static constexpr Bits GREATEST = 0x7ff0000000000000, NOT_A_NUMBER = 0x7ff8000000000000;

    static DEVICE double widen(u64 bits) { return f64_of_bits(bits); }
    static DEVICE u64 narrow(double value) { return value != value ? NOT_A_NUMBER : bits_of_f64(value); }
};
