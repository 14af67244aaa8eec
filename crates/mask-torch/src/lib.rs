//! What `tch` does not bind and masked modeling needs, with a safe face over two small C++ files.
//!
//! | item | why it is here |
//! | --- | --- |
//! | [`adamw_step`] | tch's optimisers can't save their state; the fused kernel takes a third of a loop's time |
//! | [`grad_norm`], [`found_inf`] | one pass over all gradients, read back by nobody |
//! | [`grads`], [`drop_grads`] | to drop a gradient is cheaper than to zero it |
//! | [`linear`] | oneDNN in place of MKL where it is faster: on AMD processors with AVX-512 by a factor of two |
//! | [`Autocast`] | tch switches CUDA alone, without a type |
//! | [`load_cuda`] | one binary, built without CUDA, serves both |
//! | [`peak_memory`], [`reset_peak`], [`empty_cache`] | the allocator's figures |
//! | [`set_deterministic`], [`libtorch_version`], [`num_threads`] | settings and facts of a run |
//!
//! No exception of libtorch passes the boundary: it comes back as an [`Error`] with its text.

mod adamw;
mod autocast;
mod cuda;
mod error;
mod ffi;
mod gradients;
mod linear;
mod memory;
mod settings;

pub use adamw::{AdamW, adamw_step};
pub use autocast::Autocast;
pub use cuda::{CudaLibrary, load_cuda};
pub use error::{Error, Result};
pub use gradients::{drop_grads, found_inf, grad_norm, grads};
pub use linear::linear;
pub use memory::{empty_cache, peak_memory, reset_peak};
pub use settings::{deterministic, libtorch_version, num_threads, set_deterministic};
