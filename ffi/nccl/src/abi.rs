//! The types and numbers of NCCL 2.32.3's header. Enums of the header are plain integers here: a caller may put any number
//! into one, which a Rust `enum` would not survive.
#![allow(missing_docs, reason = "the header says what they are")]

use std::ffi::{c_char, c_int, c_uint, c_void};

/// What `ncclGetVersion` says: the release whose ABI this is.
pub const NCCL_VERSION_CODE: c_int = nccl_version(2, 32, 3);

/// NCCL's number for a release, as it counts them since 2.9.
pub const fn nccl_version(major: c_int, minor: c_int, patch: c_int) -> c_int {
    major * 10_000 + minor * 100 + patch
}

pub type ncclResult_t = c_int;
pub const ncclSuccess: ncclResult_t = 0;
pub const ncclUnhandledCudaError: ncclResult_t = 1;
pub const ncclSystemError: ncclResult_t = 2;
pub const ncclInternalError: ncclResult_t = 3;
pub const ncclInvalidArgument: ncclResult_t = 4;
pub const ncclInvalidUsage: ncclResult_t = 5;
pub const ncclRemoteError: ncclResult_t = 6;
pub const ncclInProgress: ncclResult_t = 7;
pub const ncclTimeout: ncclResult_t = 8;

/// Values 0 to 11 are [`roundel::DType`]'s.
pub type ncclDataType_t = c_int;

/// 0 to 4 as below, from [`ncclNumOps`] on those of `ncclRedOpCreatePreMulSum`.
pub type ncclRedOp_t = c_int;
pub const ncclSum: ncclRedOp_t = 0;
pub const ncclProd: ncclRedOp_t = 1;
pub const ncclMax: ncclRedOp_t = 2;
pub const ncclMin: ncclRedOp_t = 3;
pub const ncclAvg: ncclRedOp_t = 4;
pub const ncclNumOps: ncclRedOp_t = 5;
pub const ncclMaxRedOp: ncclRedOp_t = 0x7fff_ffff;

pub type ncclScalarResidence_t = c_int;
pub const ncclScalarDevice: ncclScalarResidence_t = 0;
pub const ncclScalarHostImmediate: ncclScalarResidence_t = 1;

pub type ncclCommMemStat_t = c_int;
pub const ncclStatGpuMemSuspend: ncclCommMemStat_t = 0;
pub const ncclStatGpuMemSuspended: ncclCommMemStat_t = 1;
pub const ncclStatGpuMemPersist: ncclCommMemStat_t = 2;
pub const ncclStatGpuMemTotal: ncclCommMemStat_t = 3;

pub const NCCL_CONFIG_UNDEF_INT: c_int = c_int::MIN;
pub const NCCL_SPLIT_NOCOLOR: c_int = -1;
pub const NCCL_API_MAGIC: c_uint = 0xcafe_beef;
pub const NCCL_SIM_INFO_MAGIC: c_uint = 0x7468_5283;
pub const NCCL_UNIQUE_ID_BYTES: usize = 128;

pub const NCCL_WIN_DEFAULT: c_int = 0x00;
pub const NCCL_WIN_COLL_SYMMETRIC: c_int = 0x01;
pub const NCCL_WIN_STRICT_ORDERING: c_int = 0x02;
pub const NCCL_WIN_GIN_ONLY: c_int = 0x04;
pub const NCCL_WIN_CFT_COUNTED: c_int = 0x08;
pub const NCCL_WIN_REQUIRED_ALIGNMENT: usize = 4096;

pub const NCCL_CTA_POLICY_DEFAULT: c_int = 0x00;
pub const NCCL_CTA_POLICY_EFFICIENCY: c_int = 0x01;
pub const NCCL_CTA_POLICY_ZERO: c_int = 0x02;

pub const NCCL_SHRINK_DEFAULT: c_int = 0x00;
pub const NCCL_SHRINK_ABORT: c_int = 0x01;
pub const NCCL_REVOKE_DEFAULT: c_int = 0x00;
pub const NCCL_SUSPEND_MEM: c_int = 0x01;

/// A handle: a number that is looked up, never an address that is followed.
pub type ncclComm_t = *mut c_void;
/// As [`ncclComm_t`].
pub type ncclWindow_t = *mut c_void;
pub type ncclParamHandle_t = *mut c_void;
pub type cudaStream_t = *mut c_void;
pub type cudaEvent_t = *mut c_void;

/// Passed by value: 128 bytes on the stack.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ncclUniqueId {
    pub internal: [c_char; NCCL_UNIQUE_ID_BYTES],
}

/// All of it as of 2.32.3; older programs have a shorter one (see [`crate::config`]).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ncclConfig_t {
    pub size: usize,
    pub magic: c_uint,
    pub version: c_uint,
    pub blocking: c_int,
    pub cgaClusterSize: c_int,
    pub minCTAs: c_int,
    pub maxCTAs: c_int,
    pub netName: *const c_char,
    pub splitShare: c_int,
    pub trafficClass: c_int,
    pub commName: *const c_char,
    pub collnetEnable: c_int,
    pub CTAPolicy: c_int,
    pub shrinkShare: c_int,
    pub nvlsCTAs: c_int,
    pub nChannelsPerNetPeer: c_int,
    pub nvlinkCentricSched: c_int,
    pub graphUsageMode: c_int,
    pub numRmaCtx: c_int,
    pub maxP2pPeers: c_int,
    pub graphStreamOrdering: c_int,
    pub launchOrderImplicit: c_int,
    pub numRmaSig: c_int,
    pub rmaEagerInit: c_int,
    pub hostCftMode: c_int,
    pub nvlsHostMode: c_int,
}

/// One vendor's option to a call.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ncclConfigExt_t {
    pub next: *mut ncclConfigExt_t,
    pub vendorId: c_int,
    pub optionId: c_int,
    /// A union of an int, a string and a pointer.
    pub val: *mut c_void,
}

/// How one call is to run.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ncclCollConfig_t {
    pub size: usize,
    pub magic: c_uint,
    pub version: c_uint,
    pub ext: *mut ncclConfigExt_t,
    pub minCTAs: c_int,
    pub maxCTAs: c_int,
    pub nvlsCTAs: c_int,
    pub cgaClusterSize: c_int,
    pub algSelection: *const c_char,
    pub forceAlgSelection: c_int,
    pub CTAPolicy: c_int,
    pub userProfilerTag: u64,
    pub launchCompletionEvent: cudaEvent_t,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ncclSimInfo_t {
    pub size: usize,
    pub magic: c_uint,
    pub version: c_uint,
    pub estimatedTime: f32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ncclWaitSignalDesc_t {
    pub opCnt: c_int,
    pub peer: c_int,
    pub sigIdx: c_int,
    pub ctx: c_int,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ncclEncryptionConfig_t {
    pub size: usize,
    pub magic: c_uint,
    pub version: c_uint,
    pub mode: c_int,
    pub psk: *const c_char,
}

/// Some ranks of a communicator: `nRanks` of them, `stride` apart, of which the caller is number `rank`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ncclTeam_t {
    pub nRanks: c_int,
    pub rank: c_int,
    pub stride: c_int,
}

/// Passed by value.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ncclMultimemHandle_t {
    pub mcBasePtr: *mut c_void,
}

/// All of it as of 2.32.3; what an older program has ends after `railedGinType` (2.29) or `devCommRuntimeVersionSize`
/// (2.31).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ncclCommProperties_t {
    pub size: usize,
    pub magic: c_uint,
    pub version: c_uint,
    pub rank: c_int,
    pub nRanks: c_int,
    pub cudaDev: c_int,
    pub nvmlDev: c_int,
    pub deviceApiSupport: bool,
    pub multimemSupport: bool,
    pub ginType: c_int,
    pub nLsaTeams: c_int,
    pub hostRmaSupport: bool,
    pub railedGinType: c_int,
    pub commHash: u64,
    pub ginMinStride: c_int,
    pub ginConnectionType: c_int,
    pub ginSupport: [bool; 64],
    pub devCommRuntimeVersionSize: usize,
    pub cftSupport: bool,
    pub cftMulticastSupport: bool,
    pub cftCountedSupport: bool,
}
