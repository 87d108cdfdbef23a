// What happens to one element: read, joined, written. A rule is one column of the table in `ReduceOp`'s documentation; the
// loops around it are in `reduce.cuh`.
//
//    memory        register                              memory
//    Bits --load--> Register --join-- Register ... --store--> Bits
//
// `store` gets the launch's parameter: the number of ranks of an average, the bits of a factor. A
// bitwise rule does not care where elements end, and is applied to whole words.
#pragma once
#include "floats.cuh"

// Integers. `T` is unsigned; sums and products wrap, and do not depend on the sign.
template <class T>
struct Plain {
    using Bits = T;
    using Register = T;
    static constexpr bool IS_BITWISE = false;

    static DEVICE T load(T bits) { return bits; }
    static DEVICE T store(T result, u64) { return result; }
};

template <class T>
struct Bitwise : Plain<T> {
    static constexpr bool IS_BITWISE = true;
};

template <class T>
struct Sum : Plain<T> {
    static DEVICE T join(T left, T right) { return static_cast<T>(left + right); }
};

template <class T>
struct Prod : Plain<T> {
    static DEVICE T join(T left, T right) { return static_cast<T>(left * right); }
};

template <class T>
struct And : Bitwise<T> {
    template <class W>
    using On = And<W>;
    static DEVICE T join(T left, T right) { return left & right; }
};

template <class T>
struct Or : Bitwise<T> {
    template <class W>
    using On = Or<W>;
    static DEVICE T join(T left, T right) { return left | right; }
};

template <class T>
struct Xor : Bitwise<T> {
    template <class W>
    using On = Xor<W>;
    static DEVICE T join(T left, T right) { return left ^ right; }
};

// One operand, bit for bit.
template <class T>
struct Same : Bitwise<T> {
    template <class W>
    using On = Same<W>;
    static DEVICE T join(T left, T) { return left; }
};

// Times a factor.
template <class T>
struct Scaled : Plain<T> {
    static DEVICE T join(T left, T) { return left; }
    static DEVICE T store(T operand, u64 factor) { return static_cast<T>(operand * static_cast<T>(factor)); }
};

// Signed types and their unsigned twins; `Wide` is what they divide in.
template <class T>
struct Sign;
template <> struct Sign<i8> { using Bits = u8; using Wide = u32; };
template <> struct Sign<u8> { using Bits = u8; using Wide = u32; };
template <> struct Sign<i32> { using Bits = u32; using Wide = u32; };
template <> struct Sign<u32> { using Bits = u32; using Wide = u32; };
template <> struct Sign<i64> { using Bits = u64; using Wide = u64; };
template <> struct Sign<u64> { using Bits = u64; using Wide = u64; };

// The quotient is cut towards zero: that of the magnitudes, with the sum's sign.
template <class T>
struct Avg : Sum<typename Sign<T>::Bits> {
    using Bits = typename Sign<T>::Bits;
    using Wide = typename Sign<T>::Wide;
    static constexpr bool IS_SIGNED = !(T(-1) > T(1));

    static DEVICE Bits store(Bits sum, u64 world) {
        const Wide extended = static_cast<Wide>(static_cast<T>(sum));
        const bool is_negative = IS_SIGNED && extended >> (8 * sizeof(Wide) - 1);
        const Wide quotient = (is_negative ? Wide(0) - extended : extended) / static_cast<Wide>(world);
        return static_cast<Bits>(is_negative ? Wide(0) - quotient : quotient);
    }
};

// Floats of format `F`: partial results stay in its `Real`, and are rounded once.
template <class F>
struct Rounding {
    using Bits = typename F::Bits;
    using Register = typename F::Real;
    static constexpr bool IS_BITWISE = false;

    static DEVICE Register load(Bits bits) { return F::widen(bits); }
    static DEVICE Bits store(Register result, u64) { return F::narrow(result); }
};

template <class F>
struct FloatSum : Rounding<F> {
    using Real = typename F::Real;
    static DEVICE Real join(Real left, Real right) { return left + right; }
};

template <class F>
struct FloatProd : Rounding<F> {
    using Real = typename F::Real;
    static DEVICE Real join(Real left, Real right) { return left * right; }
};

template <class F>
struct FloatAvg : FloatSum<F> {
    using Real = typename F::Real;
    static DEVICE typename F::Bits store(Real sum, u64 world) { return F::narrow(sum / static_cast<Real>(world)); }
};

template <class F>
struct FloatScaled : FloatSum<F> {
    using Real = typename F::Real;
    static DEVICE typename F::Bits store(Real operand, u64 factor) {
        return F::narrow(operand * F::widen(static_cast<typename F::Bits>(factor)));
    }
};

// Least and greatest, told by signed keys that order as the values do: no float is compared, so NaN and the two zeros need
// no cases, and the small floats need no conversion.
template <class K, bool LEAST>
struct Extreme {
    using Register = K;
    static constexpr bool IS_BITWISE = false;
    static DEVICE K join(K left, K right) { return (LEAST ? right < left : left < right) ? right : left; }
};

template <class T, bool LEAST>
struct OfIntegers : Extreme<T, LEAST> {
    using Bits = typename Sign<T>::Bits;
    static DEVICE T load(Bits bits) { return static_cast<T>(bits); }
    static DEVICE Bits store(T key, u64) { return static_cast<Bits>(key); }
};

template <class B>
struct KeyOf;
template <> struct KeyOf<u8> { using Key = i8; };
template <> struct KeyOf<u16> { using Key = i16; };
template <> struct KeyOf<u32> { using Key = i32; };
template <> struct KeyOf<u64> { using Key = i64; };

// Flipping the lower bits of the negative ones makes two's complement order floats:
//
//     least                                                                   greatest
//     -NaN...   -inf ... -1 ... -0   +0 ... +1 ... +inf   +NaN...
//
// Turned by the number of NaNs that a sign has, the NaNs of both signs lie together at the end that is to win.
template <class F, bool LEAST>
struct OfFloats : Extreme<typename KeyOf<typename F::Bits>::Key, LEAST> {
    using Bits = typename F::Bits;
    using Key = typename KeyOf<Bits>::Key;
    static constexpr Bits MAGNITUDE = static_cast<Bits>(~Bits(0)) >> 1;
    static constexpr Bits TURN = static_cast<Bits>(LEAST ? MAGNITUDE - F::GREATEST : F::GREATEST - MAGNITUDE);

    // Its own inverse.
    static DEVICE Bits flipped(Bits bits) {
        const Bits sign = static_cast<Bits>(static_cast<Key>(bits) >> (8 * sizeof(Bits) - 1));
        return static_cast<Bits>(bits ^ (sign >> 1));
    }

    static DEVICE Key load(Bits bits) { return static_cast<Key>(static_cast<Bits>(flipped(bits) + TURN)); }

    static DEVICE Bits store(Key key, u64) {
        const Bits bits = flipped(static_cast<Bits>(static_cast<Bits>(key) - TURN));
        return (bits & MAGNITUDE) > F::GREATEST ? F::NOT_A_NUMBER : bits;
    }
};
