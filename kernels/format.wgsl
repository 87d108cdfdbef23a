// The small floats: bits to f32, always exact, and back, to nearest with ties to even. All in integers; a NaN comes out as the
// type's one canonical NaN.
//
//   f32    s eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm    bias 127
//   bf16   s eeeeeeee mmmmmmm                    bias 127
//   f16    s eeeee    mmmmmmmmmm                 bias 15
//   e5m2   s eeeee    mm                         bias 15
//   e4m3   s eeee     mmm                        bias 7, no infinity; only s1111111 is NaN

fn f32_from_code(bits: vec4<u32>) -> vec4<u32> {
    if FORMAT == F32 {
        return bits;
    }
    if FORMAT == BF16 {
        return bits << vec4(16u);
    }
    let sign = (bits & vec4(SIGN)) << vec4(32u - BITS);
    let code = bits & vec4((SIGN - 1u));
    let normal = (code << vec4(23u - MANTISSA_BITS)) + ((127u - BIAS) << 23u);
    // A subnormal one counts units of 2^(1 - BIAS - MANTISSA_BITS): its leading one goes to the hidden bit.
    let leading = 31u - countLeadingZeros(code | vec4(1u));
    let exponent = leading + 128u - BIAS - MANTISSA_BITS;
    let subnormal = ((exponent - 1u) << vec4(23u)) + (code << (vec4(23u) - leading));
    var magnitude = select(normal, select(subnormal, vec4(0u), code == vec4(0u)), code < vec4(1u << MANTISSA_BITS));
    if FORMAT != E4M3 {
        magnitude = select(magnitude, vec4(INFINITY), code == vec4(INFINITY_CODE));
    }
    return sign | select(magnitude, vec4(NAN), code > vec4(INFINITY_CODE));
}

fn code_from_f32(value: vec4<u32>) -> vec4<u32> {
    if FORMAT == F32 {
        return select(value, vec4(NAN), is_nan(value));
    }
    let magnitude = value & vec4(MAGNITUDE);
    let sign = (value >> vec4(32u - BITS)) & vec4(SIGN);
    let least = (127u + 1u - BIAS) << 23u;
    // A subnormal one loses more bits, hidden one included; 25 and more leave nothing, ties included.
    let exponent = max(magnitude >> vec4(23u), vec4(1u));
    let more = select(vec4(0u), min((127u + 1u - BIAS) - exponent, vec4(25u)), magnitude < vec4(least));
    let significand_or_rebiased = select(magnitude - ((127u - BIAS) << 23u), significand(magnitude), magnitude < vec4(least));
    let dropped = min(vec4(23u - MANTISSA_BITS) + more, vec4(25u));
    let odd = (significand_or_rebiased >> dropped) & vec4(1u);
    let code = (significand_or_rebiased + ((vec4(1u) << (dropped - 1u)) - 1u) + odd) >> dropped;
    let ended = select(min(code, vec4(INFINITY_CODE)), select(code, vec4(NAN_CODE), code > vec4(INFINITY_CODE)), FORMAT == E4M3);
    let infinite = select(INFINITY_CODE, NAN_CODE, FORMAT == E4M3);
    let number = select(ended, vec4(infinite), magnitude == vec4(INFINITY));
    // What is too large for e4m3 is as much a NaN as a NaN is.
    let lost = is_nan(value) | (number > vec4(INFINITY_CODE));
    return select(sign | number, vec4(NAN_CODE), lost);
}
