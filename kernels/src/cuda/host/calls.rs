//! The driver's calls that are made: no others, so that a driver that lacks one is known before the first.

macro_rules! calls {
    ($($name:ident)*) => {
        /// What a driver must have.
        pub(super) const CALLS: &[&str] = &[$(stringify!($name)),*];
        pub(super) use cudarc::driver::sys::{$($name),*};
    };
}

calls! {
    cuInit cuDriverGetVersion
    cuDeviceGetCount cuDeviceGet cuDeviceGetName cuDeviceGetAttribute cuDeviceTotalMem_v2 cuDeviceGetUuid_v2
    cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxSetCurrent
    cuMemGetInfo_v2 cuMemAlloc_v2 cuMemHostAlloc cuMemFreeHost
    cuMemcpyHtoDAsync_v2 cuMemcpyDtoHAsync_v2
    cuStreamCreate cuStreamDestroy_v2 cuStreamWaitEvent
    cuEventCreate cuEventDestroy_v2 cuEventRecord cuEventQuery
    cuModuleLoadData cuModuleGetFunction
    cuFuncSetAttribute cuLaunchKernel
}
