// f32 sums, products and quotients, in bits: by the adapter's own arithmetic where that is IEEE 754 to the last bit, subnormals
// included, and else in integers, which WGSL defines exactly. The device finds out which (src/device/wgpu/proof.rs).

const MAGNITUDE: u32 = 0x7fffffffu;
const INFINITY: u32 = 0x7f800000u;
const NAN: u32 = 0x7fc00000u;
const HIDDEN: u32 = 0x00800000u;

fn is_nan(x: vec4<u32>) -> vec4<bool> {
    return (x & vec4(MAGNITUDE)) > vec4(INFINITY);
}

fn add(a: vec4<u32>, b: vec4<u32>) -> vec4<u32> {
    if NATIVE {
        return bitcast<vec4<u32>>(bitcast<vec4<f32>>(a) + bitcast<vec4<f32>>(b));
    }
    return integer_add(a, b);
}

fn multiply(a: vec4<u32>, b: vec4<u32>) -> vec4<u32> {
    if NATIVE {
        return bitcast<vec4<u32>>(bitcast<vec4<f32>>(a) * bitcast<vec4<f32>>(b));
    }
    return integer_multiply(a, b);
}

fn divide_real(a: vec4<u32>, count: u32) -> vec4<u32> {
    if NATIVE {
        return bitcast<vec4<u32>>(bitcast<vec4<f32>>(a) / vec4(f32(count)));
    }
    return integer_divide(a, count);
}

// `x >> by`, with the last bit set if any that fell off was.
fn sticky_shift(x: vec4<u32>, by: vec4<u32>) -> vec4<u32> {
    let bits = min(by, vec4(31u));
    let fallen = x & ((vec4(1u) << bits) - 1u);
    return (x >> bits) | select(vec4(0u), vec4(1u), fallen != vec4(0u));
}

// The bits of sign * 1.m * 2^(exponent - 127), rounded to nearest, ties to even. `m` has its leading one in bit 26, unless the
// exponent is 1 and the number subnormal.
fn rounded(sign: vec4<u32>, exponent: vec4<u32>, m: vec4<u32>) -> vec4<u32> {
    let odd = (m >> vec4(3u)) & vec4(1u);
    // The hidden bit counts as one in the exponent, and so does a carry.
    let magnitude = ((exponent - 1u) << vec4(23u)) + ((m + 3u + odd) >> vec4(3u));
    return sign | min(magnitude, vec4(INFINITY));
}

fn integer_add(x: vec4<u32>, y: vec4<u32>) -> vec4<u32> {
    let swap = (x & vec4(MAGNITUDE)) < (y & vec4(MAGNITUDE));
    let a = select(x, y, swap);
    let b = select(y, x, swap);
    let big = a & vec4(MAGNITUDE);
    let small = b & vec4(MAGNITUDE);
    let sign = a & ~vec4(MAGNITUDE);
    let apart = ((a ^ b) >> vec4(31u)) == vec4(1u);
    let exponent = max(big >> vec4(23u), vec4(1u));
    let small_exponent = max(small >> vec4(23u), vec4(1u));
    let m = significand(big) << vec4(3u);
    let n = sticky_shift(significand(small) << vec4(3u), exponent - small_exponent);
    let sum = select(m + n, m - n, apart);
    // A carry into bit 27 goes down; what was cancelled goes up, as far as the exponent reaches.
    let carried = sum >= vec4(1u << 27u);
    let up = min(countLeadingZeros(sum) - select(vec4(5u), countLeadingZeros(sum), carried), exponent - 1u);
    let scaled = select(sum << up, (sum >> vec4(1u)) | (sum & vec4(1u)), carried);
    let finite = rounded(sign, select(exponent - up, exponent + 1u, carried), scaled);
    let zero = select(sign, vec4(0u), apart);
    let number = select(finite, zero, sum == vec4(0u));
    let infinite = big == vec4(INFINITY);
    let lost = (big > vec4(INFINITY)) | (infinite & apart & (small == vec4(INFINITY)));
    return select(select(number, a, infinite), vec4(NAN), lost);
}

// Mantissa and hidden bit.
fn significand(magnitude: vec4<u32>) -> vec4<u32> {
    return (magnitude & vec4(HIDDEN - 1u)) | select(vec4(0u), vec4(HIDDEN), magnitude >= vec4(HIDDEN));
}

// How far a significand's leading one is from bit 23.
fn missing(significand: vec4<u32>) -> vec4<u32> {
    return min(countLeadingZeros(significand) - 8u, vec4(23u));
}

// `rounded` of a number whose exponent may be below 1: it becomes subnormal. The leading one is in bit 26.
fn rounded_down_there(sign: vec4<u32>, exponent: vec4<i32>, m: vec4<u32>) -> vec4<u32> {
    let below = bitcast<vec4<u32>>(max(vec4(1) - exponent, vec4(0)));
    return rounded(sign, bitcast<vec4<u32>>(max(exponent, vec4(1))), sticky_shift(m, below));
}

fn exponent_of(magnitude: vec4<u32>, missing: vec4<u32>) -> vec4<i32> {
    return bitcast<vec4<i32>>(max(magnitude >> vec4(23u), vec4(1u))) - bitcast<vec4<i32>>(missing);
}

fn integer_multiply(a: vec4<u32>, b: vec4<u32>) -> vec4<u32> {
    let x = a & vec4(MAGNITUDE);
    let y = b & vec4(MAGNITUDE);
    let sign = (a ^ b) & ~vec4(MAGNITUDE);
    let x_missing = missing(significand(x));
    let y_missing = missing(significand(y));
    let m = significand(x) << x_missing;
    let n = significand(y) << y_missing;
    // 24 by 24 bits, in parts of 12.
    let upper = (m >> vec4(12u)) * (n >> vec4(12u));
    let middle = (m >> vec4(12u)) * (n & vec4(0xfffu)) + (m & vec4(0xfffu)) * (n >> vec4(12u));
    let lower = (m & vec4(0xfffu)) * (n & vec4(0xfffu)) + ((middle & vec4(0xfffu)) << vec4(12u));
    let high = upper + (middle >> vec4(12u)) + (lower >> vec4(24u));
    let low = lower & vec4(0xffffffu);
    // The leading one is in bit 22 or 23 of `high`: in bit 25 or 26 here.
    let product = (high << vec4(3u)) | sticky_shift(low, vec4(21u));
    let full = product >= vec4(1u << 26u);
    let exponent = exponent_of(x, x_missing) + exponent_of(y, y_missing) - select(vec4(127), vec4(126), full);
    let finite = rounded_down_there(sign, exponent, select(product << vec4(1u), product, full));
    let empty = (x == vec4(0u)) | (y == vec4(0u));
    let infinite = (x == vec4(INFINITY)) | (y == vec4(INFINITY));
    let lost = is_nan(x) | is_nan(y) | (infinite & empty);
    let number = select(select(finite, sign, empty), sign | vec4(INFINITY), infinite);
    return select(number, vec4(NAN), lost);
}

// A count as f32, rounded to nearest: conversions of integers may round otherwise.
fn real_count(count: u32) -> u32 {
    let leading = countLeadingZeros(count);
    let m = count << leading;
    // The leading one is in bit 31, and is to come to bit 26.
    let kept = sticky_shift(vec4(m), vec4(5u));
    return rounded(vec4(0u), vec4(127u + 31u - leading), kept).x;
}

// By a count from 1 on.
fn integer_divide(a: vec4<u32>, count: u32) -> vec4<u32> {
    let x = a & vec4(MAGNITUDE);
    let y = vec4(real_count(count));
    let sign = a & ~vec4(MAGNITUDE);
    let x_missing = missing(significand(x));
    let n = significand(y);
    var rest = significand(x) << x_missing;
    let short = rest < n;
    let exponent = exponent_of(x, x_missing) - exponent_of(y, vec4(0u)) + select(vec4(127), vec4(126), short);
    rest = select(rest, rest << vec4(1u), short);
    var quotient = vec4(0u);
    for (var bit = 0u; bit < 27u; bit++) {
        let fits = rest >= n;
        quotient = (quotient << vec4(1u)) | select(vec4(0u), vec4(1u), fits);
        rest = (rest - select(vec4(0u), n, fits)) << vec4(1u);
    }
    quotient |= select(vec4(0u), vec4(1u), rest != vec4(0u));
    let finite = rounded_down_there(sign, exponent, quotient);
    let number = select(finite, sign, x == vec4(0u));
    return select(select(number, a, x == vec4(INFINITY)), vec4(NAN), is_nan(x));
}
