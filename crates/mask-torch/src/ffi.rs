//! The boundary to `shim.cpp` and `linear.cpp`: the only unsafe code here.
#![expect(unsafe_code, reason = "C++ is called here; everything outside this file is safe")]

use std::ffi::{CStr, CString, c_char};
use std::path::{Path, PathBuf};
use std::ptr::null;

use tch::Tensor;
use torch_sys::C_tensor;

use crate::linear::Engine;
use crate::{Error, Result};

type List = *const *const C_tensor;

unsafe extern "C" {
    fn mask_torch_free(message: *mut c_char);
    fn mask_torch_version() -> *const c_char;
    fn mask_torch_adamw(
        params: List,
        grads: List,
        exp_avgs: List,
        exp_avg_sqs: List,
        steps: List,
        count: usize,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        grad_scale: *const C_tensor,
        found_inf: *const C_tensor,
    ) -> *mut c_char;
    fn mask_torch_linear(
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        engine: i32,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn mask_torch_grad_norm(grads: List, count: usize, out: *mut *mut C_tensor) -> *mut c_char;
    fn mask_torch_found_inf(tensors: List, count: usize, out: *mut *mut C_tensor) -> *mut c_char;
    fn mask_torch_drop_grads(params: List, count: usize) -> *mut c_char;
    fn mask_torch_autocast_enter(cuda: i32, dtype: i32, was_enabled: *mut i32, was_dtype: *mut i32) -> *mut c_char;
    fn mask_torch_autocast_leave(cuda: i32, was_enabled: i32, was_dtype: i32) -> *mut c_char;
    fn mask_torch_folder() -> *mut c_char;
    fn mask_torch_load(path: *const c_char) -> *mut c_char;
    fn mask_torch_cuda_peak(index: i32, bytes: *mut i64) -> *mut c_char;
    fn mask_torch_cuda_reset_peak(index: i32) -> *mut c_char;
    fn mask_torch_cuda_empty_cache() -> *mut c_char;
    fn mask_torch_set_deterministic(on: i32) -> *mut c_char;
    fn mask_torch_deterministic() -> i32;
}

/// Takes over a text that the C++ side allocated.
fn taken(text: *mut c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: every function above returns null or a string of its own that ends in 0, freed here and nowhere else.
    let copy = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    unsafe { mask_torch_free(text) };
    Some(copy)
}

fn done(text: *mut c_char) -> Result<()> {
    taken(text).map_or(Ok(()), |text| Err(Error::new(text)))
}

/// The pointers stay good while `tensors` is borrowed; the C++ side keeps none of them.
fn pointers(tensors: &[Tensor]) -> Vec<*const C_tensor> {
    tensors.iter().map(Tensor::as_ptr).collect()
}

/// One update of all parameters: parameters, gradients, first and second moments, steps, all equally many.
pub fn adamw(
    lists: [&[Tensor]; 5],
    [lr, beta1, beta2, weight_decay, eps]: [f64; 5],
    grad_scale: Option<&Tensor>,
    found_inf: Option<&Tensor>,
) -> Result<()> {
    let count = lists[0].len();
    if lists.iter().any(|list| list.len() != count) {
        return Err(Error::new(format!("adamw_step: lists of {:?} tensors", lists.map(<[Tensor]>::len))));
    }
    let lists = lists.map(pointers);
    let [params, grads, first, second, steps] = lists.each_ref().map(|list| list.as_ptr());
    let [grad_scale, found_inf] = [grad_scale, found_inf].map(|flag| flag.map_or(null(), Tensor::as_ptr));
    // SAFETY: five lists of `count` live tensors; the C++ side checks what they hold. Tensors are shared handles whose
    // content libtorch changes in place, as tch's own in-place functions do through a shared reference.
    done(unsafe {
        mask_torch_adamw(
            params,
            grads,
            first,
            second,
            steps,
            count,
            lr,
            beta1,
            beta2,
            weight_decay,
            eps,
            grad_scale,
            found_inf,
        )
    })
}

fn reduced(
    tensors: &[Tensor],
    reduce: unsafe extern "C" fn(List, usize, *mut *mut C_tensor) -> *mut c_char,
) -> Result<Tensor> {
    let list = pointers(tensors);
    let mut out = std::ptr::null_mut();
    // SAFETY: a list of live tensors; without an error `out` is a new tensor that is ours.
    done(unsafe { reduce(list.as_ptr(), list.len(), &mut out) })?;
    Ok(unsafe { Tensor::from_ptr(out) })
}

pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, engine: Engine) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    let bias = bias.map_or(null(), Tensor::as_ptr);
    // SAFETY: live tensors or null where it may be; without an error `out` is a new tensor that is ours.
    done(unsafe { mask_torch_linear(x.as_ptr(), weight.as_ptr(), bias, engine as i32, &mut out) })?;
    Ok(unsafe { Tensor::from_ptr(out) })
}

pub fn grad_norm(grads: &[Tensor]) -> Result<Tensor> {
    reduced(grads, mask_torch_grad_norm)
}

pub fn found_inf(tensors: &[Tensor]) -> Result<Tensor> {
    reduced(tensors, mask_torch_found_inf)
}

pub fn drop_grads(params: &[Tensor]) -> Result<()> {
    let list = pointers(params);
    // SAFETY: a list of live tensors.
    done(unsafe { mask_torch_drop_grads(list.as_ptr(), list.len()) })
}

/// What autocast was before: enabled, and libtorch's number of the type.
pub fn autocast_enter(cuda: bool, dtype: i32) -> Result<[i32; 2]> {
    let [mut enabled, mut kind] = [0; 2];
    // SAFETY: two integers to write to.
    done(unsafe { mask_torch_autocast_enter(cuda.into(), dtype, &mut enabled, &mut kind) })?;
    Ok([enabled, kind])
}

pub fn autocast_leave(cuda: bool, [enabled, kind]: [i32; 2]) -> Result<()> {
    // SAFETY: plain numbers, as `autocast_enter` gave them.
    done(unsafe { mask_torch_autocast_leave(cuda.into(), enabled, kind) })
}

/// The folder that libtorch was loaded from.
pub fn folder() -> Option<PathBuf> {
    // SAFETY: no arguments.
    taken(unsafe { mask_torch_folder() }).map(PathBuf::from)
}

/// Loads a library for the rest of the program, its symbols open to all.
pub fn load(library: &Path) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = CString::new(library.as_os_str().as_bytes()).map_err(|_| Error::new("the path holds a zero byte"))?;
    // SAFETY: a string that ends in 0. The library's own start-up code runs: the caller names only libtorch's.
    done(unsafe { mask_torch_load(path.as_ptr()) })
}

/// Peak bytes; `None` where the allocator isn't in use.
pub fn cuda_peak(index: i32) -> Result<Option<u64>> {
    let mut bytes = -1;
    // SAFETY: one integer to write to.
    done(unsafe { mask_torch_cuda_peak(index, &mut bytes) })?;
    Ok(u64::try_from(bytes).ok())
}

pub fn cuda_reset_peak(index: i32) -> Result<()> {
    // SAFETY: a plain number; the C++ side checks it.
    done(unsafe { mask_torch_cuda_reset_peak(index) })
}

pub fn cuda_empty_cache() -> Result<()> {
    // SAFETY: no arguments.
    done(unsafe { mask_torch_cuda_empty_cache() })
}

pub fn set_deterministic(on: bool) -> Result<()> {
    // SAFETY: a plain number.
    done(unsafe { mask_torch_set_deterministic(on.into()) })
}

pub fn deterministic() -> bool {
    // SAFETY: no arguments.
    unsafe { mask_torch_deterministic() != 0 }
}

pub fn version() -> &'static str {
    // SAFETY: a literal of the C++ file.
    unsafe { CStr::from_ptr(mask_torch_version()) }.to_str().unwrap_or("unknown")
}
