// Elements of 64 bits as pairs of words, two in a quad: the functions of element.wgsl, in 32-bit arithmetic. Floats only where
// they are compared: f64 is not to be had everywhere.

fn low(x: vec4<u32>) -> vec2<u32> {
    return x.xz;
}

fn high(x: vec4<u32>) -> vec2<u32> {
    return x.yw;
}

fn pairs(low: vec2<u32>, high: vec2<u32>) -> vec4<u32> {
    return vec4(low.x, high.x, low.y, high.y);
}

fn either(no: vec4<u32>, yes: vec4<u32>, which: vec2<bool>) -> vec4<u32> {
    return select(no, yes, which.xxyy);
}

fn take(quad: vec4<u32>, slice: u32) -> vec4<u32> {
    return quad;
}

fn put(element: vec4<u32>, slice: u32) -> vec4<u32> {
    return element;
}

fn factor() -> vec4<u32> {
    return call.factor.xyxy;
}

fn add(a: vec4<u32>, b: vec4<u32>) -> vec4<u32> {
    let sum = low(a) + low(b);
    let carry = select(vec2(0u), vec2(1u), sum < low(a));
    return pairs(sum, high(a) + high(b) + carry);
}

fn negated(a: vec4<u32>) -> vec4<u32> {
    return add(~a, vec4(1u, 0u, 1u, 0u));
}

fn multiply(a: vec4<u32>, b: vec4<u32>) -> vec4<u32> {
    // The low words' product in full, in parts of 16 bits.
    let x = low(a);
    let y = low(b);
    let none = (x & vec2(0xffffu)) * (y & vec2(0xffffu));
    let left = (x >> vec2(16u)) * (y & vec2(0xffffu)) + (none >> vec2(16u));
    let right = (x & vec2(0xffffu)) * (y >> vec2(16u)) + (left & vec2(0xffffu));
    let over = (x >> vec2(16u)) * (y >> vec2(16u)) + (left >> vec2(16u)) + (right >> vec2(16u));
    return pairs(x * y, over + x * high(b) + high(a) * y);
}

// Keys whose high words order as signed numbers and whose low words as unsigned ones. See order.wgsl.
fn key(x: vec4<u32>) -> vec4<u32> {
    if FORMAT == UNSIGNED {
        return x ^ vec4(0u, 0x80000000u, 0u, 0x80000000u);
    }
    if FORMAT == SIGNED {
        return x;
    }
    let magnitude = x & vec4(0xffffffffu, 0x7fffffffu, 0xffffffffu, 0x7fffffffu);
    let number = either(magnitude, ~magnitude, high(x) >= vec2(0x80000000u));
    let top = high(magnitude);
    let is_nan = (top > vec2(0x7ff00000u)) | ((top == vec2(0x7ff00000u)) & (low(x) != vec2(0u)));
    return either(number, nan_key(), is_nan);
}

fn nan_key() -> vec4<u32> {
    return select(vec4(0u, 0x80000000u, 0u, 0x80000000u), vec4(0xffffffffu, 0x7fffffffu, 0xffffffffu, 0x7fffffffu), OP == MAX);
}

fn value_of_key(key: vec4<u32>) -> vec4<u32> {
    if FORMAT == UNSIGNED {
        return key ^ vec4(0u, 0x80000000u, 0u, 0x80000000u);
    }
    if FORMAT == SIGNED {
        return key;
    }
    let number = either(key, ~key | vec4(0u, 0x80000000u, 0u, 0x80000000u), high(key) >= vec2(0x80000000u));
    let same = key == nan_key();
    return either(number, vec4(0u, 0x7ff80000u, 0u, 0x7ff80000u), same.xz & same.yw);
}

fn extreme(a: vec4<u32>, b: vec4<u32>) -> vec4<u32> {
    let x = bitcast<vec2<i32>>(high(a));
    let y = bitcast<vec2<i32>>(high(b));
    let less = (x < y) | ((x == y) & (low(a) < low(b)));
    return either(select(a, b, OP == MAX), select(b, a, OP == MAX), !less);
}

fn widen(element: vec4<u32>) -> vec4<u32> {
    if OP == MAX || OP == MIN {
        return key(element);
    }
    return element;
}

fn join(left: vec4<u32>, right: vec4<u32>) -> vec4<u32> {
    switch OP {
        case MAX, MIN: {
            return extreme(left, right);
        }
        case AND: {
            return left & right;
        }
        case OR: {
            return left | right;
        }
        case XOR: {
            return left ^ right;
        }
        case PROD: {
            return multiply(left, right);
        }
        default: {
            return add(left, right);
        }
    }
}

fn narrow(value: vec4<u32>) -> vec4<u32> {
    if OP == MAX || OP == MIN {
        return value_of_key(value);
    }
    return value;
}

fn share(sum: vec4<u32>) -> vec4<u32> {
    let negative = vec2(FORMAT == SIGNED) & (high(sum) >= vec2(0x80000000u));
    let whole = either(sum, negated(sum), negative);
    let upper = high(whole) / call.divisor;
    var rest = high(whole) % call.divisor;
    var lower = vec2(0u);
    for (var bit = 0u; bit < 32u; bit++) {
        let next = (low(whole) >> vec2(31u - bit)) & vec2(1u);
        let over = rest >= vec2(0x80000000u);
        rest = (rest << vec2(1u)) | next;
        let fits = over | (rest >= vec2(call.divisor));
        rest -= select(vec2(0u), vec2(call.divisor), fits);
        lower = (lower << vec2(1u)) | select(vec2(0u), vec2(1u), fits);
    }
    let quotient = pairs(lower, upper);
    return either(quotient, negated(quotient), negative);
}
