// Least and greatest, told by integer keys that order as the values do: no float is compared, so NaN and the two zeros need no
// cases. A NaN's key lies at the end that is to win.

fn nan_key() -> vec4<i32> {
    return select(vec4(-0x7fffffff - 1), vec4(0x7fffffff), OP == MAX);
}

fn key(bits: vec4<u32>) -> vec4<u32> {
    if FORMAT == UNSIGNED {
        return bits ^ vec4(0x80000000u);
    }
    if FORMAT == SIGNED {
        return sign_extended(bits);
    }
    let magnitude = bits & vec4((SIGN - 1u));
    let key = select(magnitude, ~magnitude, (bits & vec4(SIGN)) != vec4(0u));
    return select(key, bitcast<vec4<u32>>(nan_key()), magnitude > vec4(INFINITY_CODE));
}

fn extreme(left: vec4<u32>, right: vec4<u32>) -> vec4<u32> {
    let a = bitcast<vec4<i32>>(left);
    let b = bitcast<vec4<i32>>(right);
    return bitcast<vec4<u32>>(select(min(a, b), max(a, b), OP == MAX));
}

fn value_of_key(key: vec4<u32>) -> vec4<u32> {
    if FORMAT == UNSIGNED {
        return key ^ vec4(0x80000000u);
    }
    if FORMAT == SIGNED {
        return key;
    }
    let number = select(key, ~key | vec4(SIGN), bitcast<vec4<i32>>(key) < vec4(0));
    return select(number, vec4(NAN_CODE), key == bitcast<vec4<u32>>(nan_key()));
}
