//! What exists so that programs load, and answers that it cannot be done here, and why.

use crate::abi::*;
use crate::status::{Failure, Result, answer};
use std::ffi::{c_char, c_int, c_uint, c_void};

fn refuse(why: &str) -> impl FnOnce() -> Result<()> {
    move || Err(Failure::usage(why))
}

const NO_DEVICE_CODE: &str =
    "device-side communication needs CUDA, which this build has no support for; use the collectives";
const NO_ONE_SIDED: &str = "Roundel has no one-sided messages yet; use ncclSend and ncclRecv in a group";
const NO_PARAMETERS: &str = "Roundel has no NCCL parameters; its settings are the ROUNDEL_* environment variables";
const NO_ENCRYPTION: &str = "Roundel takes no keys from programs: set ROUNDEL_ENCRYPT=1 on all ranks, and what goes over TCP is \
                             encrypted under keys that come of the job's secret, which is part of the unique id";

macro_rules! refused {
    ($($why:ident: $($name:ident($($type:ty),*))*;)*) => {$($(
        #[doc = concat!("Always `ncclInvalidUsage`, for [`", stringify!($why), "`].")]
        #[unsafe(no_mangle)]
        #[allow(rustdoc::private_intra_doc_links)]
        pub unsafe extern "C" fn $name($(_: $type),*) -> ncclResult_t {
            answer(stringify!($name), refuse($why))
        }
    )*)*};
}

refused! {
    NO_DEVICE_CODE:
        ncclDevCommCreate(ncclComm_t, *const c_void, *mut c_void)
        ncclDevCommDestroy(ncclComm_t, *const c_void)
        ncclGetLsaMultimemDevicePointer(ncclWindow_t, usize, *mut *mut c_void)
        ncclGetMultimemDevicePointer(ncclWindow_t, usize, ncclMultimemHandle_t, *mut *mut c_void)
        ncclGetLsaDevicePointer(ncclWindow_t, usize, c_int, *mut *mut c_void)
        ncclGetPeerDevicePointer(ncclWindow_t, usize, c_int, *mut *mut c_void)
        ncclGetMultimemDeviceLeInfo(ncclWindow_t, usize, *mut u32, *mut usize)
        ncclGetCftDeviceLeInfo(ncclWindow_t, usize, c_int, ncclTeam_t, *mut u32, *mut usize)
        ncclGetPeerDeviceLeInfo(ncclWindow_t, usize, c_int, *mut u32, *mut usize)
        ncclLsaBarrierCreateRequirement(ncclTeam_t, c_int, *mut c_void, *mut c_void)
        ncclGinBarrierCreateRequirement(ncclComm_t, ncclTeam_t, c_int, *mut c_void, *mut c_void)
        ncclLLA2ACreateRequirement(c_int, c_int, *mut c_void, *mut c_void)
        ncclGinOutboxCreateRequirement(c_int, c_int, *mut c_void, *mut c_void)
        ncclGinInboxA2ACreateRequirement(ncclTeam_t, c_int, c_int, *mut c_void, *mut c_void);
    NO_ONE_SIDED:
        ncclPutSignal(*const c_void, usize, ncclDataType_t, c_int, ncclWindow_t, usize, c_int, c_int, c_uint, ncclComm_t, cudaStream_t)
        ncclSignal(c_int, c_int, c_int, c_uint, ncclComm_t, cudaStream_t)
        ncclWaitSignal(c_int, *mut ncclWaitSignalDesc_t, ncclComm_t, cudaStream_t);
    NO_PARAMETERS:
        ncclParamBind(*mut ncclParamHandle_t, *const c_char)
        ncclParamGetI8(ncclParamHandle_t, *mut i8)
        ncclParamGetI16(ncclParamHandle_t, *mut i16)
        ncclParamGetI32(ncclParamHandle_t, *mut i32)
        ncclParamGetI64(ncclParamHandle_t, *mut i64)
        ncclParamGetU8(ncclParamHandle_t, *mut u8)
        ncclParamGetU16(ncclParamHandle_t, *mut u16)
        ncclParamGetU32(ncclParamHandle_t, *mut u32)
        ncclParamGetU64(ncclParamHandle_t, *mut u64)
        ncclParamGetStr(ncclParamHandle_t, *mut *const c_char)
        ncclParamGet(ncclParamHandle_t, *mut c_void, c_int, *mut c_int)
        ncclParamGetParameter(*const c_char, *mut *const c_char, *mut c_int)
        ncclParamGetAllParameterKeys(*mut *mut *const c_char, *mut c_int);
    NO_ENCRYPTION:
        ncclSetEncryption(*const ncclEncryptionConfig_t);
}

/// Prints nothing: there are no parameters.
#[unsafe(no_mangle)]
pub extern "C" fn ncclParamDumpAll() {
    // It has no result: the words are all that it can leave.
    let _ = answer("ncclParamDumpAll", refuse(NO_PARAMETERS));
}

/// Slots of a device-side all-to-all: none, for there is none.
#[unsafe(no_mangle)]
pub extern "C" fn ncclLLA2ACalcSlots(_maxElts: c_int, _maxEltSize: c_int) -> c_int {
    let _ = answer("ncclLLA2ACalcSlots", refuse(NO_DEVICE_CODE));
    0
}
