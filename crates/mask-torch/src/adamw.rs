//! AdamW as one call over all parameters.

use tch::Tensor;

use crate::{Result, ffi};

/// One group of parameters with its state and its numbers: Loshchilov and Hutter, Decoupled weight decay
/// regularization, ICLR 2019, algorithm 2.
///
/// The lists are equally long. Gradients and moments have shape, type and device of their parameter, all parameters
/// share one device, and a step is one float32 there that starts at 0.
#[derive(Clone, Copy, Debug)]
pub struct AdamW<'a> {
    /// What is trained; changed.
    pub params: &'a [Tensor],
    /// Their gradients, all defined.
    pub grads: &'a [Tensor],
    /// Running means of the gradient; changed.
    pub exp_avgs: &'a [Tensor],
    /// Running means of the squared gradient; changed.
    pub exp_avg_sqs: &'a [Tensor],
    /// Updates done, exact up to 2^24; changed.
    pub steps: &'a [Tensor],
    /// Rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Share of the rate by which parameters shrink.
    pub weight_decay: f64,
}

/// One update by libtorch's fused kernel: a third of the time of a loop over parameters.
///
/// Gradients are divided by `grad_scale` first, and may be left divided: drop them afterwards. Where `found_inf` is 1
/// the update is dropped, and parameters, moments and steps keep their bits. Both are one number, and neither is read
/// back to the host.
///
/// # Errors
/// libtorch refuses: lists of different length, a shape, type, device or memory layout that doesn't fit; nothing is
/// changed then.
/// ```
/// use mask_torch::{AdamW, adamw_step};
/// use tch::{Kind, Tensor};
/// let [param, grad, first, second, step] = [1f32, 0.5, 0.0, 0.0, 0.0].map(|value| [Tensor::from(value)]);
/// let update = AdamW {
///     params: &param,
///     grads: &grad,
///     exp_avgs: &first,
///     exp_avg_sqs: &second,
///     steps: &step,
///     lr: 0.1,
///     beta1: 0.9,
///     beta2: 0.999,
///     eps: 1e-8,
///     weight_decay: 0.0,
/// };
/// adamw_step(&update, None, None)?;
/// assert!((f64::try_from(&param[0]).unwrap() - 0.9).abs() < 1e-6); // the first step is as long as the rate
/// # Ok::<(), mask_torch::Error>(())
/// ```
pub fn adamw_step(update: &AdamW<'_>, grad_scale: Option<&Tensor>, found_inf: Option<&Tensor>) -> Result<()> {
    let &AdamW { params, grads, exp_avgs, exp_avg_sqs, steps, lr, beta1, beta2, eps, weight_decay } = update;
    ffi::adamw(
        [params, grads, exp_avgs, exp_avg_sqs, steps],
        [lr, beta1, beta2, weight_decay, eps],
        grad_scale,
        found_inf,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn::{self, OptimizerConfig};
    use tch::{Device, Kind};

    const NUMBERS: [f64; 5] = [0.01, 0.9, 0.95, 1e-8, 0.05];

    /// Lists of parameters, gradients, moments and steps.
    struct State([Vec<Tensor>; 5]);

    impl State {
        fn new(params: Vec<Tensor>) -> Self {
            let zeros = || params.iter().map(Tensor::zeros_like).collect::<Vec<_>>();
            let steps = params.iter().map(|p| Tensor::zeros([], (Kind::Float, p.device()))).collect();
            let [grads, first, second] = [zeros(), zeros(), zeros()];
            Self([params, grads, first, second, steps])
        }

        fn step(&mut self, grads: Vec<Tensor>, scale: Option<&Tensor>, found: Option<&Tensor>) -> Result<()> {
            self.0[1] = grads;
            let [params, grads, exp_avgs, exp_avg_sqs, steps] = &self.0;
            let [lr, beta1, beta2, eps, weight_decay] = NUMBERS;
            let update = AdamW { params, grads, exp_avgs, exp_avg_sqs, steps, lr, beta1, beta2, eps, weight_decay };
            adamw_step(&update, scale, found)
        }

        /// The bits of everything that an update changes.
        fn bits(&self) -> Vec<Vec<u32>> {
            [0, 2, 3, 4].iter().flat_map(|&list| &self.0[list]).map(bits).collect()
        }
    }

    fn bits(tensor: &Tensor) -> Vec<u32> {
        let flat = tensor.detach().to_kind(Kind::Float).contiguous().view([-1]);
        Vec::<f32>::try_from(flat).unwrap().into_iter().map(f32::to_bits).collect()
    }

    fn random(seed: i64) -> Vec<Tensor> {
        let at = |place: i64, size: &[i64]| {
            let count = size.iter().product::<i64>();
            let angles = Tensor::arange(count, (Kind::Float, Device::Cpu)) * 1.7 + (seed * 37 + place * 11);
            (angles.sin() * 3.0).view(size)
        };
        vec![at(0, &[5, 7]), at(1, &[]), at(2, &[3, 2, 4]), at(3, &[1000])]
    }

    fn gap(one: &Tensor, other: &Tensor) -> f64 {
        f64::try_from((one - other).abs().max().detach()).unwrap()
    }

    #[test]
    fn steps_are_those_of_tch_and_of_a_loop() {
        let vs = nn::VarStore::new(Device::Cpu);
        let theirs: Vec<Tensor> =
            random(0).iter().enumerate().map(|(at, value)| vs.root().var_copy(&format!("p{at}"), value)).collect();
        let [lr, beta1, beta2, eps, wd] = NUMBERS;
        let mut optimiser = nn::AdamW { beta1, beta2, wd, eps, amsgrad: false }.build(&vs, lr).unwrap();
        let mut state = State::new(random(0).into_iter().map(|p| p.set_requires_grad(true)).collect());
        let mut loop_: Vec<[Tensor; 3]> = random(0)
            .into_iter()
            .map(|p| p.to_kind(Kind::Double))
            .map(|p| [p.zeros_like(), p.zeros_like(), p])
            .collect();
        for step in 1..=12 {
            let grads = random(step);
            optimiser.zero_grad();
            let parts = theirs.iter().zip(&grads).map(|(p, g)| (p * g).sum(Kind::Float));
            parts.reduce(|sum, part| sum + part).unwrap().backward();
            optimiser.step();
            for ([first, second, param], grad) in loop_.iter_mut().zip(&grads) {
                let grad = grad.to_kind(Kind::Double);
                *first = &*first * beta1 + &grad * (1.0 - beta1);
                *second = &*second * beta2 + grad.square() * (1.0 - beta2);
                let [one, two] = [beta1, beta2].map(|beta| 1.0 - beta.powi(step as i32));
                *param = &*param * (1.0 - lr * wd) - (&*first / one) / ((&*second / two).sqrt() + eps) * lr;
            }
            state.step(grads, None, None).unwrap();
            for ((mine, tch), [.., hand]) in state.0[0].iter().zip(&theirs).zip(&loop_) {
                assert!(gap(mine, tch) < 1e-6, "step {step}: {} from tch", gap(mine, tch));
                assert!(gap(mine, hand) < 1e-5, "step {step}: {} from the loop", gap(mine, hand));
            }
        }
        assert!(state.0[4].iter().all(|count| f32::try_from(count).unwrap() == 12.0));
        assert!(state.0[0].iter().all(Tensor::requires_grad));
    }

    #[test]
    fn gradients_are_divided() {
        let [mut plain, mut scaled] = [State::new(random(0)), State::new(random(0))];
        let scale = Tensor::from(1024f32);
        for step in 1..4 {
            plain.step(random(step), None, None).unwrap();
            let large = random(step).into_iter().map(|grad| grad * 1024.0).collect();
            scaled.step(large, Some(&scale), Some(&Tensor::from(0f32))).unwrap();
        }
        assert_eq!(plain.bits(), scaled.bits()); // a power of two divides exactly
    }

    #[test]
    fn a_dropped_update_changes_no_bit() {
        let mut state = State::new(random(0));
        state.step(random(1), None, None).unwrap();
        let before = state.bits();
        let odd = random(2).into_iter().map(|grad| grad * f64::NAN).collect::<Vec<_>>();
        let found = crate::found_inf(&odd).unwrap();
        state.step(odd, Some(&Tensor::from(2f32)), Some(&found)).unwrap();
        assert_eq!(state.bits(), before);
        state.step(random(2), None, Some(&Tensor::zeros([1], (Kind::Double, Device::Cpu)))).unwrap();
        assert_ne!(state.bits(), before);
        assert!(state.0[4].iter().all(|count| f32::try_from(count).unwrap() == 2.0));
    }

    /// The kernel walks memory: a transposed gradient or parameter must not be taken by its place in it.
    #[test]
    fn layout_does_not_matter() {
        let values = |seed: i64| random(seed).swap_remove(0);
        let turned = |t: Tensor| t.tr().contiguous().tr();
        let mut straight = State::new(vec![values(0), values(1)]);
        let mut mixed = State::new(vec![values(0), turned(values(1))]);
        assert!(!mixed.0[0][1].is_contiguous());
        for step in 2..5 {
            straight.step(vec![values(step), values(step + 9)], None, None).unwrap();
            mixed.step(vec![turned(values(step)), values(step + 9)], None, None).unwrap();
        }
        assert_eq!(straight.bits(), mixed.bits());
    }

    #[test]
    fn bfloat16_is_trained() {
        let narrow = |list: Vec<Tensor>| list.into_iter().map(|t| t.to_kind(Kind::BFloat16)).collect::<Vec<_>>();
        let mut state = State::new(narrow(random(0)));
        let before = state.bits();
        state.step(narrow(random(1)), None, None).unwrap();
        assert_ne!(state.bits(), before);
        assert_eq!(state.0[0][0].kind(), Kind::BFloat16);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let mut state = State::new(random(0));
        let before = state.bits();
        let mut refused = |change: fn(&mut Vec<Tensor>), scale: Option<&Tensor>| {
            let mut grads = random(1);
            change(&mut grads);
            state.step(grads, scale, None).unwrap_err().to_string()
        };
        assert_eq!(refused(|g| drop(g.pop()), None), "adamw_step: lists of [4, 3, 4, 4, 4] tensors");
        assert_eq!(refused(|g| g[1] = Tensor::new(), None), "gradient 1 is undefined");
        let shape = refused(|g| g[3] = g[3].narrow(0, 0, 9), None);
        assert_eq!(shape, "gradient 3 has shape [9], its parameter [1000]");
        let kind = refused(|g| g[3] = g[3].to_kind(Kind::Half), None);
        assert_eq!(kind, "gradient 3 is Half, its parameter Float");
        let pair = Tensor::from_slice(&[1f32, 2.0]);
        assert_eq!(refused(|_| (), Some(&pair)), "grad_scale is not one number");
        assert_eq!(state.bits(), before);
        state.0[4][2] = Tensor::from(0i64);
        assert_eq!(state.step(random(1), None, None).unwrap_err().to_string(), "step 2 is not one float32 on cpu");
        state.0[0][0] = Tensor::ones([1, 7], (Kind::Float, Device::Cpu)).expand([5, 7], false);
        let spread = state.step(random(1), None, None).unwrap_err().to_string();
        assert_eq!(spread, "parameter 0 does not fill its memory");
        assert_eq!(State::new(vec![]).step(vec![], None, None), Ok(()));
    }
}
