//! AdamW whose state is tensors that a checkpoint keeps.

use std::collections::BTreeMap;
use std::rc::Rc;

use tch::{Kind, Tensor};

use super::config::{AdamWConfig, OptimiserConfig};
use crate::nn::Parameters;
use crate::schedule::Clock;
use crate::{Error, Named, Result};

/// Parameters that share a rate and a decay.
#[derive(Debug)]
struct Group {
    /// Factor on the rate.
    scale: f64,
    decays: bool,
    members: Vec<usize>,
}

/// The optimiser with its state.
#[derive(Debug)]
pub struct Optimiser {
    config: AdamWConfig,
    names: Vec<String>,
    params: Vec<Tensor>,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    steps: Vec<Tensor>,
    groups: Vec<Group>,
}

impl Optimiser {
    /// Over all trained parameters, grouped by what was recorded when they were made.
    ///
    /// # Errors
    /// No parameter is trained.
    pub fn new(config: &OptimiserConfig, parameters: &Rc<Parameters>) -> Result<Self> {
        let OptimiserConfig::AdamW(config) = config;
        let (mut names, mut params, mut keys, mut deepest) = (Vec::new(), Vec::new(), Vec::new(), 0);
        parameters.each(|parameter| {
            if parameter.trained {
                names.push(parameter.name.clone());
                params.push(parameter.tensor.shallow_clone());
                keys.push((parameter.layer, parameter.decay));
                deepest = deepest.max(parameter.layer);
            }
        });
        if params.is_empty() {
            return Err(Error::Defect("nothing is trained".to_owned()));
        }
        let mut groups: BTreeMap<(usize, bool), Vec<usize>> = BTreeMap::new();
        for (index, (layer, decay)) in keys.into_iter().enumerate() {
            let layer = if config.layer_decay.is_some() { layer } else { deepest };
            groups.entry((layer, decay)).or_default().push(index);
        }
        let groups = groups
            .into_iter()
            .map(|((layer, decay), members)| Group {
                scale: config.layer_decay.unwrap_or(1.0).powi((deepest - layer) as i32),
                decays: decay,
                members,
            })
            .collect();
        let zeros = |params: &[Tensor]| params.iter().map(|p| p.detach().zeros_like()).collect::<Vec<_>>();
        let count = |p: &Tensor| Tensor::zeros([] as [i64; 0], (Kind::Float, p.device()));
        Ok(Self {
            config: config.clone(),
            first: zeros(&params),
            second: zeros(&params),
            steps: params.iter().map(count).collect(),
            names,
            params,
            groups,
        })
    }

    /// The trained parameters.
    #[must_use]
    pub fn params(&self) -> &[Tensor] {
        &self.params
    }

    /// The gradients that there are.
    #[must_use]
    pub fn grads(&self) -> Vec<Tensor> {
        mask_torch::grads(&self.params).into_iter().flatten().collect()
    }

    /// Drops the gradients of parameters whose names begin like one of `names`, so that neither update nor decay
    /// reaches them.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn hold(&self, names: &[&str]) -> Result<()> {
        let held = |name: &String| names.iter().any(|start| name.starts_with(start));
        let of = self.names.iter().zip(&self.params).filter(|(name, _)| held(name));
        let params: Vec<Tensor> = of.map(|(_, param)| param.shallow_clone()).collect();
        if params.is_empty() { Ok(()) } else { Ok(mask_torch::drop_grads(&params)?) }
    }

    /// Clips each gradient by its own norm.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn clip_each(&self, most: f64) -> Result<()> {
        tch::no_grad(|| {
            for mut gradient in self.grads() {
                let scale = ((gradient.norm() + 1e-6).reciprocal() * most).clamp_max(1.0);
                let _ = gradient.g_mul_(&scale);
            }
        });
        Ok(())
    }

    /// One update at `rate`. Gradients are divided by `grad_scale`; where `dropped` is 1 nothing changes. Both stay on
    /// the device.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn step(&self, rate: f64, clock: &Clock, grad_scale: &Tensor, dropped: &Tensor) -> Result<()> {
        let weight_decay = self.config.weight_decay_at(clock);
        for group in &self.groups {
            let mut lists: [Vec<Tensor>; 5] = Default::default();
            for &member in &group.members {
                let grad = self.params[member].grad();
                if grad.defined() {
                    let of = [&self.params, &self.first, &self.second, &self.steps].map(|l| l[member].shallow_clone());
                    let [param, first, second, steps] = of;
                    for (list, tensor) in lists.iter_mut().zip([param, grad, first, second, steps]) {
                        list.push(tensor);
                    }
                }
            }
            let [params, grads, exp_avgs, exp_avg_sqs, steps] = &lists;
            if params.is_empty() {
                continue;
            }
            let AdamWConfig { betas: [beta1, beta2], eps, .. } = self.config;
            mask_torch::adamw_step(
                &mask_torch::AdamW {
                    params,
                    grads,
                    exp_avgs,
                    exp_avg_sqs,
                    steps,
                    lr: rate * group.scale,
                    beta1,
                    beta2,
                    eps,
                    weight_decay: if group.decays { weight_decay } else { 0.0 },
                },
                Some(grad_scale),
                Some(dropped),
            )?;
        }
        Ok(())
    }

    /// The state for a checkpoint.
    #[must_use]
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let of = |kind: &str, list: &[Tensor]| {
            let named = self.names.iter().zip(list);
            named.map(|(name, tensor)| (format!("{kind}.{name}"), tensor.shallow_clone())).collect::<Vec<_>>()
        };
        [of("first", &self.first), of("second", &self.second), of("steps", &self.steps)].into_iter().flatten().collect()
    }

    /// Takes the state of a checkpoint.
    ///
    /// # Errors
    /// A missing name or another shape.
    pub fn load(&self, state: &Named<Tensor>) -> Result<()> {
        for (name, mine) in self.state() {
            let value = state.get(&name).ok_or_else(|| Error::value(&name, "is missing from the optimiser's state"))?;
            if value.size() != mine.size() {
                return Err(Error::shape(name, format!("{:?}", mine.size()), &value.size()));
            }
            let mut mine = mine;
            mine.f_copy_(value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Init;
    use tch::Device;

    const CLOCK: Clock = Clock { step: 0, steps: 10, epoch: 0, steps_in_epoch: 1 };

    fn config(layer_decay: Option<f64>) -> OptimiserConfig {
        OptimiserConfig::AdamW(AdamWConfig { layer_decay, ..AdamWConfig::default() })
    }

    /// Ledger 000 BEiT: scale of the embedding d^(depth + 1), of block i (0-based) d^(depth - i), of the rest 1.
    #[test]
    fn layers_have_their_rates() {
        let parameters = Parameters::new(Device::Cpu, 0);
        for layer in 0..=4 {
            let _ = parameters.root().enter(layer).at_layer(layer).weight("w", &[1], Init::ONES).unwrap();
            let _ = parameters.root().enter(layer).at_layer(layer).plain("b", &[1], Init::ONES).unwrap();
        }
        let optimiser = Optimiser::new(&config(Some(0.5)), &parameters).unwrap();
        let scales: Vec<f64> = optimiser.groups.iter().map(|group| group.scale).collect();
        assert_eq!(scales, [0.0625, 0.0625, 0.125, 0.125, 0.25, 0.25, 0.5, 0.5, 1.0, 1.0]);
        let flat = Optimiser::new(&config(None), &parameters).unwrap();
        let decays: Vec<bool> = flat.groups.iter().map(|group| group.decays).collect();
        assert_eq!(decays, [false, true]);
    }

    /// Ledger 070: each gradient is clipped by its own norm, g * 3 / (|g| + 1e-6); what is held gets no update, no
    /// decay and no moment.
    #[test]
    fn clipping_by_parameter_and_holding() {
        let parameters = Parameters::new(Device::Cpu, 0);
        let [a, b] = ["a", "b"].map(|name| parameters.root().weight(name, &[2], Init::ONES).unwrap());
        let optimiser = Optimiser::new(&config(None), &parameters).unwrap();
        (&a * Tensor::from_slice(&[30f32, 40.0]) + &b * Tensor::from_slice(&[0.3f32, 0.4])).sum(Kind::Float).backward();
        optimiser.clip_each(3.0).unwrap();
        let close =
            |tensor: Tensor, wanted: [f32; 2]| (tensor - Tensor::from_slice(&wanted)).abs().max().double_value(&[]);
        assert!(close(a.grad(), [1.8, 2.4]) < 1e-6 && close(b.grad(), [0.3, 0.4]) < 1e-7);
        optimiser.hold(&["b"]).unwrap();
        optimiser.step(0.1, &CLOCK, &Tensor::from(1f32), &Tensor::from(0f32)).unwrap();
        assert_eq!(Vec::<f32>::try_from(b.detach()).unwrap(), [1.0, 1.0]);
        assert!(a.detach().double_value(&[0]) < 1.0);
        let steps: Named<Tensor> = optimiser.state().into_iter().collect();
        assert_eq!([&steps["steps.a"], &steps["steps.b"]].map(|steps| steps.double_value(&[])), [1.0, 0.0]);
    }

    /// A dropped update leaves parameters and state as they were, to the bit; and the state survives a round trip.
    #[test]
    fn a_dropped_update_is_none() {
        let parameters = Parameters::new(Device::Cpu, 0);
        let weight = parameters.root().weight("w", &[3], Init::Normal(1.0)).unwrap();
        let optimiser = Optimiser::new(&config(None), &parameters).unwrap();
        let [one, zero] = [1f32, 0.0].map(Tensor::from);
        let before = weight.detach().copy();
        weight.square().sum(Kind::Float).backward();
        optimiser.step(0.1, &CLOCK, &one, &one).unwrap();
        assert_eq!(weight.detach(), before);
        assert!(optimiser.state().iter().all(|(_, state)| state.abs().sum(Kind::Float).double_value(&[]) == 0.0));
        optimiser.step(0.1, &CLOCK, &one, &zero).unwrap();
        assert_ne!(weight.detach(), before);
        let state: Named<Tensor> = optimiser.state().into_iter().map(|(name, t)| (name, t.copy())).collect();
        let other = Optimiser::new(&config(None), &parameters).unwrap();
        other.load(&state).unwrap();
        assert!(other.state().iter().all(|(name, tensor)| *tensor == state[name]));
        assert!(other.load(&Named::new()).is_err());
    }
}
