//! NCCL ABI.
