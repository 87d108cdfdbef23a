//! The numbers of NCCL's header, written down again: every value of an enum, every size and offset of a struct, as binaries
//! that were built with it have them (x86-64).

use nccl::abi::*;
use roundel::{DType, ReduceOp};
use std::mem::{align_of, offset_of, size_of};

macro_rules! values {
    ($($name:ident = $value:expr),* $(,)?) => { [$((stringify!($name), $name as i64, $value as i64)),*] };
}

#[test]
fn constants_have_their_values() {
    for (name, ours, fact) in values! {
        ncclSuccess = 0, ncclUnhandledCudaError = 1, ncclSystemError = 2, ncclInternalError = 3, ncclInvalidArgument = 4,
        ncclInvalidUsage = 5, ncclRemoteError = 6, ncclInProgress = 7, ncclTimeout = 8,
        ncclSum = 0, ncclProd = 1, ncclMax = 2, ncclMin = 3, ncclAvg = 4, ncclNumOps = 5, ncclMaxRedOp = 0x7fffffff,
        ncclScalarDevice = 0, ncclScalarHostImmediate = 1,
        ncclStatGpuMemSuspend = 0, ncclStatGpuMemSuspended = 1, ncclStatGpuMemPersist = 2, ncclStatGpuMemTotal = 3,
        NCCL_CONFIG_UNDEF_INT = i32::MIN, NCCL_SPLIT_NOCOLOR = -1, NCCL_API_MAGIC = 0xcafebeef_u32,
        NCCL_SIM_INFO_MAGIC = 0x74685283, NCCL_UNIQUE_ID_BYTES = 128, NCCL_VERSION_CODE = 23203,
        NCCL_WIN_DEFAULT = 0, NCCL_WIN_COLL_SYMMETRIC = 1, NCCL_WIN_STRICT_ORDERING = 2, NCCL_WIN_GIN_ONLY = 4,
        NCCL_WIN_CFT_COUNTED = 8, NCCL_WIN_REQUIRED_ALIGNMENT = 4096,
        NCCL_CTA_POLICY_DEFAULT = 0, NCCL_CTA_POLICY_EFFICIENCY = 1, NCCL_CTA_POLICY_ZERO = 2,
        NCCL_SHRINK_DEFAULT = 0, NCCL_SHRINK_ABORT = 1, NCCL_REVOKE_DEFAULT = 0, NCCL_SUSPEND_MEM = 1,
    } {
        assert_eq!(ours, fact, "{name}");
    }
}

#[test]
fn element_types_and_reductions_have_the_numbers_of_the_header() {
    let types = [
        (0, DType::I8, 1),
        (1, DType::U8, 1),
        (2, DType::I32, 4),
        (3, DType::U32, 4),
        (4, DType::I64, 8),
        (5, DType::U64, 8),
        (6, DType::F16, 2),
        (7, DType::F32, 4),
        (8, DType::F64, 8),
        (9, DType::Bf16, 2),
        (10, DType::F8E4M3, 1),
        (11, DType::F8E5M2, 1),
    ];
    for (number, dtype, size_bytes) in types {
        assert_eq!((DType::from_code(number), dtype.size_bytes()), (Some(dtype), size_bytes));
    }
    assert_eq!(DType::from_code(12), None, "ncclNumTypes");
    let ops = [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min, ReduceOp::Avg];
    assert_eq!(ops.map(|op| i32::from(op.code())), [ncclSum, ncclProd, ncclMax, ncclMin, ncclAvg]);
}

macro_rules! layout {
    ($type:ty, size $size:literal, align $align:literal; $($field:ident at $offset:literal),* $(,)?) => {{
        let name = stringify!($type);
        assert_eq!((size_of::<$type>(), align_of::<$type>()), ($size, $align), "{name}");
        $(assert_eq!(offset_of!($type, $field), $offset, "{name}.{}", stringify!($field));)*
    }};
}

#[test]
fn structs_have_their_layout() {
    layout! { ncclUniqueId, size 128, align 1; internal at 0 }
    layout! { ncclConfig_t, size 120, align 8;
        size at 0, magic at 8, version at 12, blocking at 16, cgaClusterSize at 20, minCTAs at 24, maxCTAs at 28,
        netName at 32, splitShare at 40, trafficClass at 44, commName at 48, collnetEnable at 56, CTAPolicy at 60,
        shrinkShare at 64, nvlsCTAs at 68, nChannelsPerNetPeer at 72, nvlinkCentricSched at 76, graphUsageMode at 80,
        numRmaCtx at 84, maxP2pPeers at 88, graphStreamOrdering at 92, launchOrderImplicit at 96, numRmaSig at 100,
        rmaEagerInit at 104, hostCftMode at 108, nvlsHostMode at 112,
    }
    layout! { ncclConfigExt_t, size 24, align 8; next at 0, vendorId at 8, optionId at 12, val at 16 }
    layout! { ncclCollConfig_t, size 72, align 8;
        size at 0, magic at 8, version at 12, ext at 16, minCTAs at 24, maxCTAs at 28, nvlsCTAs at 32, cgaClusterSize at 36,
        algSelection at 40, forceAlgSelection at 48, CTAPolicy at 52, userProfilerTag at 56, launchCompletionEvent at 64,
    }
    layout! { ncclSimInfo_t, size 24, align 8; size at 0, magic at 8, version at 12, estimatedTime at 16 }
    layout! { ncclWaitSignalDesc_t, size 16, align 4; opCnt at 0, peer at 4, sigIdx at 8, ctx at 12 }
    layout! { ncclEncryptionConfig_t, size 32, align 8; size at 0, magic at 8, version at 12, mode at 16, psk at 24 }
    layout! { ncclTeam_t, size 12, align 4; nRanks at 0, rank at 4, stride at 8 }
    layout! { ncclMultimemHandle_t, size 8, align 8; mcBasePtr at 0 }
    layout! { ncclCommProperties_t, size 152, align 8;
        size at 0, magic at 8, version at 12, rank at 16, nRanks at 20, cudaDev at 24, nvmlDev at 28, deviceApiSupport at 32,
        multimemSupport at 33, ginType at 36, nLsaTeams at 40, hostRmaSupport at 44, railedGinType at 48, commHash at 56,
        ginMinStride at 64, ginConnectionType at 68, ginSupport at 72, devCommRuntimeVersionSize at 136, cftSupport at 144,
        cftMulticastSupport at 145, cftCountedSupport at 146,
    }
    // Enums and handles.
    assert_eq!([size_of::<ncclResult_t>(), size_of::<ncclDataType_t>(), size_of::<ncclRedOp_t>()], [4; 3]);
    assert_eq!([size_of::<ncclComm_t>(), size_of::<ncclWindow_t>(), size_of::<cudaStream_t>()], [8; 3]);
}

/// The config of every age ends where its last field of that age does, padding included.
#[test]
fn configs_of_every_age_are_prefixes_of_the_newest() {
    let ages = [
        (nccl_version(2, 14, 0), 24),
        (nccl_version(2, 25, 0), 48),
        (nccl_version(2, 27, 0), 72),
        (nccl_version(2, 28, 0), 80),
        (nccl_version(2, 29, 0), 88),
        (nccl_version(2, 30, 5), 96),
        (nccl_version(2, 31, 0), 120),
    ];
    for (version, len_bytes) in ages {
        let known = nccl::config::CONFIG_FIELDS.iter().filter(|field| field.since <= version);
        let end = known.map(|field| field.offset_bytes + 4).max().unwrap();
        assert_eq!(end.next_multiple_of(8), len_bytes, "{version}");
    }
}
