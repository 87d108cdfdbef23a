// n operands into m results, or into one partial result, which is kept in full: as f32 for the small floats. What is bound, and
// which operand is joined with which, is written for each number of operands by src/device/wgpu/kernels.rs:
//
//   result(quad)          one logical quad of the result
//   keep(quad)            stores one of the partial result
//   store(..)             into all m outputs

struct Call {
    // Bytes of the result.
    len: u32,
    divisor: u32,
    factor: vec2<u32>,
    // Where each output begins in what is bound, in bytes; equal but for whole quads.
    into: vec4<u32>,
    // Where each operand begins.
    from_first: vec4<u32>,
    from_second: vec4<u32>,
}
var<immediate> call: Call;

// One invocation for each quad of the outputs. Where they begin inside a quad, its bytes come from two quads of the result:
// computing both costs less than meeting another invocation in memory.
fn write_result(quad: u32) {
    let shift = call.into.x & 15u;
    if 16u * quad >= shift + call.len {
        return;
    }
    var before = vec4(0u);
    var here = vec4(0u);
    for (var q = quad - select(0u, 1u, shift > 0u && quad > 0u); q <= quad; q++) {
        before = here;
        here = result(q);
    }
    if shift > 0u {
        here = cut(before, here, 16u - shift);
    }
    let begin = max(shift, 16u * quad) - 16u * quad;
    let end = min(shift + call.len - 16u * quad, 16u);
    store(quad, here, first_bytes(end) & ~first_bytes(begin));
}

fn write_partial(quad: u32) {
    if 16u * quad < call.len {
        keep(quad);
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if PARTIAL {
        write_partial(id.x);
    } else {
        write_result(id.x);
    }
}
