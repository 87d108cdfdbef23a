// The loops: n inputs, element by element, into m outputs, along the canonical tree, whose left part is the largest power of
// two below the number of operands:
//
//   n = 7      ((0 1) (2 3)) ((4 5) 6)
//
// That is the full tree over the next power of two with the missing operands left out. Up to eight operands it is unrolled
// in registers; above, the results of eights meet on a stack, as ones do in a binary counter.
//
// What a thread is given it reads whole before it writes any of it, so an output may be exactly one of the inputs.
//
//          head          vectors: 16 bytes of every operand                       tail
//   bytes  |..|................|................|................|................|...|
//          by elements      the grid's threads side by side, again and again       by elements
#pragma once
#include "rules.cuh"

// One launch. The host fills it in: `src/device/cuda/reduction.rs` has the same struct.
template <u32 OPERANDS>
struct Reduction {
    // Elements; those before the first vector; vectors.
    u64 len, head, vectors;
    // What the rule's `store` gets.
    u64 parameter;
    // Where the addresses of the operands are when they do not fit below, else 0.
    Address table;
    u32 operand_count, output_count;
    // Whether an operand or an output lies at no multiple of its element's size.
    u32 is_bytewise, reserved;
    Address into[16];
    Address from[OPERANDS];
};

// A vector's words hold whole elements.
template <class Bits>
struct WordOf {
    using Word = u32;
};
template <>
struct WordOf<u64> {
    using Word = u64;
};

// The element at a place in a word.
template <class Bits, class W>
DEVICE Bits picked(W word, u32 place) {
    return static_cast<Bits>(sizeof(W) == sizeof(Bits) ? word : word >> (8 * sizeof(Bits) * place));
}

template <class W, class Bits>
DEVICE W placed(Bits bits, u32 place) {
    return sizeof(W) == sizeof(Bits) ? static_cast<W>(bits) : static_cast<W>(bits) << (8 * sizeof(Bits) * place);
}

// The tree over operands FIRST to FIRST + WIDTH as far as there are that many: there is one at least.
template <class R, u32 WIDTH, u32 FIRST = 0, class Fetch>
DEVICE typename R::Register tree(u32 count, const Fetch &fetch) {
    if constexpr (WIDTH == 1) {
        return R::load(fetch(FIRST));
    } else {
        constexpr u32 HALF = WIDTH / 2;
        typename R::Register result = tree<R, HALF, FIRST>(count, fetch);
        if (FIRST + HALF < count) result = R::join(result, tree<R, HALF, FIRST + HALF>(count, fetch));
        return result;
    }
}

// Few operands, a word (or an element) of each.
template <class R, u32 WIDTH, class W>
DEVICE W joined(const W *operands, u32 count, u64 parameter) {
    using Bits = typename R::Bits;
    constexpr u32 PLACES = sizeof(W) / sizeof(Bits);
    if constexpr (R::IS_BITWISE && PLACES > 1) {
        return joined<typename R::template On<W>, WIDTH>(operands, count, parameter);
    } else {
        W result = 0;
        const auto at = [&](u32 place) {
            const auto sum = tree<R, WIDTH>(count, [&](u32 k) { return picked<Bits>(operands[k], place); });
            result = static_cast<W>(result | placed<W>(R::store(sum, parameter), place));
        };
        // Four copies of a conversion would be more code than they are worth.
        if constexpr (PLACES > 2) {
            ROLLED for (u32 place = 0; place < PLACES; place++) at(place);
        } else {
            UNROLLED for (u32 place = 0; place < PLACES; place++) at(place);
        }
        return result;
    }
}

// The next word moves to the front, and `last` to the back: registers have no index, so a loop over words turns them.
template <class W>
DEVICE void turn(Vector<W> &vector, W last) {
    constexpr u32 WORDS = 16 / sizeof(W);
    UNROLLED for (u32 w = 0; w + 1 < WORDS; w++) vector.word[w] = vector.word[w + 1];
    vector.word[WORDS - 1] = last;
}

// Few operands, a vector of each. Written out for every word only where that is little code: an instruction more for a byte
// costs nothing next to bringing it here.
template <class R, u32 WIDTH, class W>
DEVICE Vector<W> joined_vectors(Vector<W> (&operands)[WIDTH], u32 count, u64 parameter) {
    constexpr u32 WORDS = 16 / sizeof(W);
    Vector<W> result = {};
    const auto next = [&]() {
        W words[WIDTH];
        UNROLLED for (u32 k = 0; k < WIDTH; k++) {
            words[k] = operands[k].word[0];
            turn(operands[k], words[k]);
        }
        turn(result, joined<R, WIDTH>(words, count, parameter));
    };
    if constexpr (WIDTH <= 2 && (sizeof(typename R::Bits) == sizeof(W) || R::IS_BITWISE)) {
        UNROLLED for (u32 w = 0; w < WORDS; w++) next();
    } else {
        ROLLED for (u32 w = 0; w < WORDS; w++) next();
    }
    return result;
}

// One element that may lie anywhere.
template <class Bits>
DEVICE Bits load_bytes(Address at) {
    Bits bits = 0;
    ROLLED for (u32 i = 0; i < sizeof(Bits); i++) bits = static_cast<Bits>(bits | static_cast<Bits>(load<u8>(at + i)) << (8 * i));
    return bits;
}

template <class Bits>
DEVICE void store_bytes(Address at, Bits bits) {
    ROLLED for (u32 i = 0; i < sizeof(Bits); i++) store<u8>(at + i, static_cast<u8>(bits >> (8 * i)));
}

// Up to WIDTH operands, a power of two; exactly that many where they are not more than two. Every thread has UNITS vectors of
// each on their way at once.
template <class R, u32 WIDTH, u32 UNITS>
DEVICE void reduce_few(const Reduction<8> &call) {
    using Bits = typename R::Bits;
    using W = typename WordOf<Bits>::Word;
    using V = Vector<W>;
    const u32 count = WIDTH <= 2 ? WIDTH : call.operand_count;
    const u64 stride = thread_count();
    const u64 head_bytes = call.head * sizeof(Bits);
    for (u64 first = thread_number(); first < call.vectors; first += stride * UNITS) {
        V operands[UNITS][WIDTH];
        UNROLLED for (u32 unit = 0; unit < UNITS; unit++) {
            const u64 vector = first + unit * stride;
            if (vector >= call.vectors) break;
            UNROLLED for (u32 k = 0; k < WIDTH; k++) {
                if (k < count) operands[unit][k] = load<V>(call.from[k] + head_bytes + vector * 16);
            }
        }
        UNROLLED for (u32 unit = 0; unit < UNITS; unit++) {
            const u64 vector = first + unit * stride;
            if (vector >= call.vectors) break;
            const V result = joined_vectors<R, WIDTH>(operands[unit], count, call.parameter);
            ROLLED for (u32 k = 0; k < call.output_count; k++) store<V>(call.into[k] + head_bytes + vector * 16, result);
        }
    }
    const u64 inside = call.vectors * (16 / sizeof(Bits));
    ROLLED for (u64 i = thread_number(); i < call.len - inside; i += stride) {
        const u64 offset = (i < call.head ? i : i + inside) * sizeof(Bits);
        Bits operands[WIDTH];
        UNROLLED for (u32 k = 0; k < WIDTH; k++) {
            if (k < count) operands[k] = load<Bits>(call.from[k] + offset);
        }
        const Bits result = joined<R, WIDTH>(operands, count, call.parameter);
        ROLLED for (u32 k = 0; k < call.output_count; k++) store<Bits>(call.into[k] + offset, result);
    }
}

// How many addresses of operands travel with a launch of `reduce_any`; more are in a table.
constexpr u32 WITH_LAUNCH = 256;

// Any number of operands, at any alignment: every thread an element, and eight of its operands on their way at once.
//
// Eights are joined as they come. The result of the g-th one carries over as a one does when g is counted in binary, so what
// lies on level l of the stack stands for 2^l eights, and in the end the levels from the lowest to the highest are
// the right parts of the tree, from the smallest to the largest.
template <class R>
DEVICE void reduce_any(const Reduction<WITH_LAUNCH> &call) {
    using Bits = typename R::Bits;
    using Register = typename R::Register;
    constexpr u32 LEVELS = 30;
    const u32 count = call.operand_count;
    const u32 eights = count / 8 + (count % 8 != 0);
    const Address *from = call.table ? table_at(call.table, count) : call.from;
    for (u64 i = thread_number(); i < call.len; i += thread_count()) {
        const u64 offset = i * sizeof(Bits);
        Register stack[LEVELS];
        ROLLED for (u32 eight = 0; eight < eights; eight++) {
            const u32 here = count - 8 * eight;
            Bits operands[8] = {};
            if (call.is_bytewise) {
                ROLLED for (u32 k = 0; k < 8; k++) {
                    UNROLLED for (u32 i = 0; i < 7; i++) operands[i] = operands[i + 1];
                    operands[7] = k < here ? load_bytes<Bits>(from[8 * eight + k] + offset) : Bits(0);
                }
            } else {
                UNROLLED for (u32 k = 0; k < 8; k++) {
                    if (k < here) operands[k] = load<Bits>(from[8 * eight + k] + offset);
                }
            }
            Register part = tree<R, 8>(here, [&](u32 k) { return operands[k]; });
            u32 level = 0;
            ROLLED for (; eight >> level & 1; level++) part = R::join(stack[level], part);
            stack[level] = part;
        }
        u32 level = 0;
        ROLLED while (!(eights >> level & 1)) level++;
        Register sum = stack[level];
        ROLLED for (level++; level < LEVELS && eights >> level != 0; level++) {
            if (eights >> level & 1) sum = R::join(stack[level], sum);
        }
        const Bits result = R::store(sum, call.parameter);
        ROLLED for (u32 k = 0; k < call.output_count; k++) {
            if (call.is_bytewise) {
                store_bytes<Bits>(call.into[k] + offset, result);
            } else {
                store<Bits>(call.into[k] + offset, result);
            }
        }
    }
}
