//! Teachers: a copy at first, an exponential mean after, and never a gradient.

use mask_core::nn::{Init, Linear, Parameters, Scope};
use mask_core::{Result, Teacher};
use tch::{Device, Kind, Tensor};

fn net(at: &Scope) -> Result<Linear> {
    Linear::new(&at.enter("map"), 3, 2, Init::Normal(1.0))
}

/// teacher_n = m^n teacher_0 + (1 - m) sum of m^(n - 1 - i) student_i.
#[test]
fn the_mean_has_its_closed_form() {
    let parameters = Parameters::new(Device::Cpu, 4);
    let root = parameters.root();
    let student = net(&root).unwrap();
    let extra = root.weight("student_only", &[2], Init::ONES).unwrap();
    let teacher = Teacher::copy_of(&root, &root.enter("teacher"), net).unwrap();
    let first = student.weight.detach().copy();
    assert_eq!(teacher.model().weight, first);
    let (momentum, steps) = (0.9, 7);
    let mut expected = first.to_kind(Kind::Double) * f64::powi(momentum, steps);
    for step in 0..steps {
        let _ = tch::no_grad(|| student.weight.shallow_clone().f_add_scalar_(f64::from(step) - 2.5).unwrap());
        let now = student.weight.detach().to_kind(Kind::Double);
        expected += now * ((1.0 - momentum) * f64::powi(momentum, steps - 1 - step));
        teacher.follow(momentum);
    }
    let gap = (teacher.model().weight.to_kind(Kind::Double) - expected).abs().max().double_value(&[]);
    assert!(gap < 1e-5, "{gap}");
    assert!(extra.requires_grad() && !teacher.model().weight.requires_grad());
    // The copies are counted apart.
    assert_eq!((parameters.count(), parameters.numbers(|p| p.teacher)), ((10, 10), 8));
}

#[test]
fn no_gradient_passes() {
    let parameters = Parameters::new(Device::Cpu, 4);
    let root = parameters.root();
    let student = net(&root.enter("student")).unwrap();
    let teacher = Teacher::copy_of(&root.enter("student"), &root.enter("teacher"), net).unwrap();
    let x = Tensor::ones([1, 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let target = teacher.ask(|net| Ok(net.forward(&x))).unwrap();
    assert!(!target.requires_grad());
    (student.forward(&x) - target - 1.0).square().sum(Kind::Float).backward();
    assert!(student.weight.grad().defined() && !teacher.model().weight.grad().defined());
    let lacking = Teacher::copy_of(&root.enter("student"), &root.enter("other"), |at| {
        Linear::new(&at.enter("another"), 3, 2, Init::ZEROS)
    });
    assert!(lacking.unwrap_err().to_string().contains("no twin"));
}
