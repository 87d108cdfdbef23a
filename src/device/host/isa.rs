//! Which instructions this machine has, and how a loop gets compiled for them.
//!
//! A loop is written once, as a [`Task`] in plain Rust over single elements, and instantiated once per instruction set:
//! inlined into a function that has the set's features enabled, it is vectorised by the compiler with them. Rust's
//! arithmetic has no licence to contract or reorder, so every instantiation gives the same bits by construction.
//! One thing the compiler does not find is the hardware's f16 conversion; [`Lanes`] names it.

use std::sync::OnceLock;

use super::rule::Ring;

/// A family of instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// What the compilation target promises: SSE2 on x86-64, NEON on aarch64.
    Portable,
    /// AVX2 and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Isa {
    /// The ones this machine can run, best last.
    pub fn available() -> Vec<Isa> {
        [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The one in use: the best there is, or the one that `ROUNDEL_CPU=portable|avx2|avx512` asks for. A wish that this
    /// machine cannot fulfil is said in the log and dropped.
    pub fn chosen() -> Isa {
        static CHOSEN: OnceLock<Isa> = OnceLock::new();
        *CHOSEN.get_or_init(|| choose(std::env::var("ROUNDEL_CPU").ok().as_deref()))
    }

    /// The name that `ROUNDEL_CPU` knows it by.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c");
        match self {
            Isa::Portable => true,
            Isa::Avx2 => avx2,
            Isa::Avx512 => {
                avx2 && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_available(self) -> bool {
        self == Isa::Portable
    }
}

fn choose(wish: Option<&str>) -> Isa {
    let available = Isa::available();
    let best = *available.last().expect("the portable loops run everywhere");
    let Some(wish) = wish else { return best };
    match available.iter().find(|isa| isa.name() == wish) {
        Some(&isa) => isa,
        None => {
            let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
            tracing::warn!("ROUNDEL_CPU={wish} is not one of {names:?}, which this machine has; using {}", best.name());
            best
        }
    }
}

/// A loop that can be compiled for any instruction set. `run` must be `#[inline(always)]`, as must what it calls.
pub(super) trait Task {
    /// Does it, with the lanes of `S` at hand.
    ///
    /// # Safety
    /// The machine has `S`; and what the task itself asks for.
    unsafe fn run<S: Set>(self);
}

/// An instruction set as a type, so that loops can be generic over it.
pub(super) trait Set: 'static {
    /// Several f32 at once, with conversion from and to f16 in hardware.
    type Lanes: Lanes;

    /// Compiles `task` for this set, and runs it.
    ///
    /// # Safety
    /// The machine has this set; and what [`Task::run`] asks for.
    unsafe fn enter<T: Task>(task: T);
}

/// A register of f32 lanes. A value of an x86 kind only comes into being inside [`Set::enter`] of its set: that is why
/// its arithmetic may use the set's instructions.
pub(super) trait Lanes: Ring {
    /// How many.
    const COUNT: usize;
    /// Reads and widens `COUNT` binary16.
    ///
    /// # Safety
    /// They are readable (at any alignment), and the machine has the instruction set.
    unsafe fn load_f16(from: *const u16) -> Self;
    /// Reads `COUNT` f32.
    ///
    /// # Safety
    /// As [`Lanes::load_f16`].
    unsafe fn load_f32(from: *const f32) -> Self;
    /// Rounds to binary16, makes NaNs canonical, and writes `COUNT` of them.
    ///
    /// # Safety
    /// They are writable (at any alignment).
    unsafe fn store_f16(self, into: *mut u16);
    /// Makes NaNs canonical and writes `COUNT` f32.
    ///
    /// # Safety
    /// As [`Lanes::store_f16`].
    unsafe fn store_f32(self, into: *mut f32);
}

/// [`Isa::Portable`].
pub(super) struct Portable;

impl Set for Portable {
    type Lanes = f32;

    unsafe fn enter<T: Task>(task: T) {
        // SAFETY: passed on from the caller; this set asks for nothing.
        unsafe { task.run::<Portable>() }
    }
}

impl Lanes for f32 {
    const COUNT: usize = 1;

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> f32 {
        // SAFETY: readable, says the caller.
        super::convert::f32_from_f16(unsafe { from.read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> f32 {
        // SAFETY: readable, says the caller.
        unsafe { from.read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_f16(self, into: *mut u16) {
        // SAFETY: writable, says the caller.
        unsafe { into.write_unaligned(super::convert::f16_from_f32(self)) }
    }

    #[inline(always)]
    unsafe fn store_f32(self, into: *mut f32) {
        let canonical = if self.is_nan() { f32::from_bits(0x7fc0_0000) } else { self };
        // SAFETY: writable, says the caller.
        unsafe { into.write_unaligned(canonical) }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Lanes, Ring, Set, Task};
    use std::arch::x86_64::*;

    /// [`super::Isa::Avx2`].
    pub(in super::super) struct Avx2;

    impl Set for Avx2 {
        type Lanes = Lanes256;

        #[target_feature(enable = "avx2,f16c")]
        unsafe fn enter<T: Task>(task: T) {
            // SAFETY: passed on from the caller.
            unsafe { task.run::<Avx2>() }
        }
    }

    /// [`super::Isa::Avx512`].
    pub(in super::super) struct Avx512;

    impl Set for Avx512 {
        type Lanes = Lanes512;

        #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
        unsafe fn enter<T: Task>(task: T) {
            // SAFETY: passed on from the caller.
            unsafe { task.run::<Avx512>() }
        }
    }

    /// Eight f32.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Lanes256(__m256);

    impl Ring for Lanes256 {
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: a value of this type shows that the machine has AVX2 (see `Lanes`).
            unsafe { Lanes256(_mm256_add_ps(self.0, other.0)) }
        }

        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            // SAFETY: as in `add`.
            unsafe { Lanes256(_mm256_mul_ps(self.0, other.0)) }
        }
    }

    impl Lanes256 {
        #[inline(always)]
        fn canonical(self) -> __m256 {
            // SAFETY: as in `add`.
            unsafe {
                let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0);
                _mm256_blendv_ps(self.0, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc0_0000)), nan)
            }
        }
    }

    impl Lanes for Lanes256 {
        const COUNT: usize = 8;

        #[inline(always)]
        unsafe fn load_f16(from: *const u16) -> Self {
            // SAFETY: readable, and the machine has AVX2 and F16C, says the caller.
            unsafe { Lanes256(_mm256_cvtph_ps(_mm_loadu_si128(from.cast()))) }
        }

        #[inline(always)]
        unsafe fn load_f32(from: *const f32) -> Self {
            // SAFETY: as in `load_f16`.
            unsafe { Lanes256(_mm256_loadu_ps(from)) }
        }

        #[inline(always)]
        unsafe fn store_f16(self, into: *mut u16) {
            // SAFETY: writable, says the caller; instructions as in `add`.
            unsafe {
                let rounded = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.canonical());
                _mm_storeu_si128(into.cast(), rounded)
            }
        }

        #[inline(always)]
        unsafe fn store_f32(self, into: *mut f32) {
            // SAFETY: as in `store_f16`.
            unsafe { _mm256_storeu_ps(into, self.canonical()) }
        }
    }

    /// Sixteen f32.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Lanes512(__m512);

    impl Ring for Lanes512 {
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: a value of this type shows that the machine has AVX-512 (see `Lanes`).
            unsafe { Lanes512(_mm512_add_ps(self.0, other.0)) }
        }

        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            // SAFETY: as in `add`.
            unsafe { Lanes512(_mm512_mul_ps(self.0, other.0)) }
        }
    }

    impl Lanes512 {
        #[inline(always)]
        fn canonical(self) -> __m512 {
            // SAFETY: as in `add`.
            unsafe {
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
                _mm512_mask_mov_ps(self.0, nan, _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc0_0000)))
            }
        }
    }

    impl Lanes for Lanes512 {
        const COUNT: usize = 16;

        #[inline(always)]
        unsafe fn load_f16(from: *const u16) -> Self {
            // SAFETY: readable, and the machine has AVX-512, says the caller.
            unsafe { Lanes512(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
        }

        #[inline(always)]
        unsafe fn load_f32(from: *const f32) -> Self {
            // SAFETY: as in `load_f16`.
            unsafe { Lanes512(_mm512_loadu_ps(from)) }
        }

        #[inline(always)]
        unsafe fn store_f16(self, into: *mut u16) {
            // SAFETY: writable, says the caller; instructions as in `add`.
            unsafe {
                let rounded = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.canonical());
                _mm256_storeu_si256(into.cast(), rounded)
            }
        }

        #[inline(always)]
        unsafe fn store_f32(self, into: *mut f32) {
            // SAFETY: as in `store_f16`.
            unsafe { _mm512_storeu_ps(into, self.canonical()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_followed_where_possible() {
        assert_eq!(choose(Some("portable")), Isa::Portable);
        let best = choose(None);
        assert_eq!(Some(&best), Isa::available().last());
        assert_eq!(choose(Some("z80")), best);
        for isa in Isa::available() {
            assert_eq!(choose(Some(isa.name())), isa);
        }
    }
}
