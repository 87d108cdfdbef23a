// Sixteen bytes at a time, wherever they lie. Buffers are arrays of quads; spans begin at any byte. See src/device/wgpu/kernels.rs.
//
//   physical quads   |...............|...............|...............|     of the buffer
//   logical quads         |...............|............|                   of the span, counted from its first byte

// The sixteen bytes that begin `at` bytes (0 to 15) into `low`, followed by `high`.
fn cut(low: vec4<u32>, high: vec4<u32>, at: u32) -> vec4<u32> {
    var words = low;
    var next = high.x;
    switch at >> 2u {
        case 1u: {
            words = vec4(low.yzw, high.x);
            next = high.y;
        }
        case 2u: {
            words = vec4(low.zw, high.xy);
            next = high.z;
        }
        case 3u: {
            words = vec4(low.w, high.xyz);
            next = high.w;
        }
        default: {}
    }
    let bits = 8u * (at & 3u);
    if bits == 0u {
        return words;
    }
    return (words >> vec4(bits)) | (vec4(words.yzw, next) << vec4(32u - bits));
}

// Ones in the first `count` bytes of a quad.
fn first_bytes(count: u32) -> vec4<u32> {
    let bytes = min(max(vec4(count), vec4(0u, 4u, 8u, 12u)) - vec4(0u, 4u, 8u, 12u), vec4(4u));
    // A shift by 32 is one by 0.
    return select((vec4(1u) << (8u * bytes)) - 1u, vec4(0xffffffffu), bytes == vec4(4u));
}
