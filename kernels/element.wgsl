// Elements of up to 32 bits, four at a time, one of each word of a quad: taken out, turned into what is computed with (f32 bits,
// ordering keys, or the bits as they are), joined, and put back. For 64 bits see pair.wgsl, which has the same functions.

const ELEMENT: u32 = SIGN | (SIGN - 1u);

fn take(quad: vec4<u32>, slice: u32) -> vec4<u32> {
    return (quad >> vec4(slice * BITS)) & vec4(ELEMENT);
}

fn put(element: vec4<u32>, slice: u32) -> vec4<u32> {
    return (element & vec4(ELEMENT)) << vec4(slice * BITS);
}

fn factor() -> vec4<u32> {
    return vec4(call.factor.x & ELEMENT);
}

fn sign_extended(bits: vec4<u32>) -> vec4<u32> {
    return ((bits & vec4(ELEMENT)) ^ vec4(SIGN)) - SIGN;
}

fn widen(element: vec4<u32>) -> vec4<u32> {
    if OP == MAX || OP == MIN {
        return key(element);
    }
    if FLOAT {
        return f32_from_code(element);
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
            if FLOAT {
                return multiply(left, right);
            }
            return left * right;
        }
        default: {
            if FLOAT {
                return add(left, right);
            }
            return left + right;
        }
    }
}

fn narrow(value: vec4<u32>) -> vec4<u32> {
    if OP == MAX || OP == MIN {
        return value_of_key(value);
    }
    if FLOAT {
        return code_from_f32(value);
    }
    return value;
}

// A sum's share of one of `call.divisor` ranks; integers truncate towards zero.
fn share(sum: vec4<u32>) -> vec4<u32> {
    if FLOAT {
        return divide_real(sum, call.divisor);
    }
    if FORMAT == SIGNED {
        let whole = sign_extended(sum);
        let negative = whole >= vec4(0x80000000u);
        let quotient = select(whole, 0u - whole, negative) / call.divisor;
        return select(quotient, 0u - quotient, negative);
    }
    return (sum & vec4(ELEMENT)) / call.divisor;
}
