//! An encoder with a linear map to classes, trained as a whole.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::hub::{ClassHead, Export};
use crate::method::{Batch, Encoder, Features, Method, Outcome, Pool, Sheet, Step, View, Want};
use crate::nn::{Init, LayerNorm, Linear, Scope};
use crate::objective::cross_entropy;
use crate::report::Panel;
use crate::{Error, Result};

/// Recipe keys of the map to classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// What it reads: the mean of the `tokens`, behind a fresh norm that replaces the encoder's own (MAE), or the `class`
    /// token, behind the encoder's final norm.
    pub pool: Pool,
    /// Standard deviation of its first weights, a normal law cut at 2.
    pub std: f64,
    /// Label smoothing in training: this share of the target lies on all classes alike.
    pub smoothing: f64,
}

impl Default for HeadConfig {
    /// MAE's.
    fn default() -> Self {
        Self { pool: Pool::Tokens, std: 2e-5, smoothing: 0.1 }
    }
}

impl HeadConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn check(&self) -> Result<()> {
        if !(self.std > 0.0 && self.std <= 1.0) {
            return Err(Error::value("head.std", format!("{} is no deviation above 0, up to 1", self.std)));
        }
        if !(0.0..1.0).contains(&self.smoothing) {
            return Err(Error::value(
                "head.smoothing",
                format!("{} is no share from 0 to 1 (excluded)", self.smoothing),
            ));
        }
        Ok(())
    }
}

/// The numbers that a modality gives a [`Classifier`] besides its encoder.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// Classes.
    pub classes: u64,
    /// Epsilon of the fresh norm.
    pub norm_eps: f64,
    /// Tokens in front of the positions.
    pub prefix: i64,
    /// Draws the samples of a view, a panel each.
    pub panels: fn(&View) -> Result<Vec<Panel>>,
}

/// An encoder that is fine-tuned to classes. As a method it hides nothing: its front gives `label`, the partner's label
/// `other` and the `share` of the own one ([`super::Labelled`]), and its loss is the cross-entropy with both.
pub struct Classifier<E> {
    encoder: E,
    norm: Option<LayerNorm>,
    head: Linear,
    /// Where norm and map lie among the parameters.
    place: ClassHead,
    config: HeadConfig,
    panels: fn(&View) -> Result<Vec<Panel>>,
    flops: Box<dyn Fn(f64) -> f64>,
}

impl<E: Encoder> Classifier<E> {
    /// Puts a head behind `encoder`, whose parameters lie in the layers below `at`'s. `flops` counts the operations of
    /// the encoder's forward over a number of positions.
    ///
    /// # Errors
    /// Keys out of range, a class token that the encoder lacks.
    pub fn new(
        at: &Scope,
        config: &HeadConfig,
        encoder: E,
        parts: &Parts,
        flops: Box<dyn Fn(f64) -> f64>,
    ) -> Result<Self> {
        config.check()?;
        if !(2..=1 << 20).contains(&parts.classes) {
            return Err(Error::value("classes", format!("{} is not a number from 2 to 1048576", parts.classes)));
        }
        if config.pool == Pool::Class && parts.prefix == 0 {
            return Err(Error::value("head.pool", "the encoder has no class token: take tokens"));
        }
        let width = encoder.width();
        let norm = match config.pool {
            Pool::Tokens => Some(LayerNorm::new(&at.enter("norm"), width, parts.norm_eps)?),
            Pool::Class => None,
        };
        let law = Init::Truncated { std: config.std, cut: 2.0 };
        let head = Linear::new(&at.enter("head"), width, parts.classes as i64, law)?;
        let place = ClassHead {
            norm: norm.as_ref().map(|_| at.enter("norm").prefix()),
            map: at.enter("head").prefix(),
            classes: parts.classes as i64,
        };
        Ok(Self { encoder, norm, head, place, config: config.clone(), panels: parts.panels, flops })
    }

    /// What the head reads, [B, D].
    fn pooled(&self, features: &Features) -> Result<Tensor> {
        let pooled = features.of(self.config.pool)?;
        Ok(self.norm.as_ref().map_or_else(|| pooled.shallow_clone(), |norm| norm.forward(&pooled)))
    }

    fn forward(&self, view: &View, step: &Step<'_>) -> Result<Tensor> {
        Ok(self.head.forward(&self.pooled(&self.encoder.encode(view, None, &Want::last(), step)?)?))
    }
}

impl<E: Encoder> Method for Classifier<E> {
    fn loss(&self, batch: &Batch, step: &Step<'_>) -> Result<Outcome> {
        let view = batch.only_view()?;
        let logits = self.forward(view, step)?; // [B, C]
        let smoothing = if step.train { self.config.smoothing } else { 0.0 };
        // Cross-entropy is linear in its target: that with a mixed target is the mix of two.
        let of = |name: &str| cross_entropy(&logits, view.input(name)?, smoothing);
        let share = view.input("share")?; // [B]
        let errors: Tensor = of("label")? * share + of("other")? * (1.0 - share); // [B]
        let outcome = Outcome::one("cross_entropy", errors.sum(Kind::Float), batch.totals.samples);
        Ok(Outcome { answers: Some(logits), ..outcome })
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.encoder
    }

    fn export(&self) -> Result<Export> {
        self.encoder.export_classifier(&self.place)
    }

    fn classify(&self, batch: &Batch, step: &Step<'_>) -> Result<Option<Tensor>> {
        self.forward(batch.only_view()?, step).map(Some)
    }

    fn show(&self, batch: &Batch, step: &Step<'_>) -> Result<Sheet> {
        let view = batch.only_view()?;
        let likely = self.forward(view, step)?.to_kind(Kind::Float).softmax(-1, Kind::Float);
        let (share, class) = likely.max_dim(-1, false);
        let numbers = |tensor: Tensor| Ok::<_, Error>(Vec::<f64>::try_from(tensor.to_kind(Kind::Double))?);
        let (share, class) = (numbers(share)?, numbers(class)?);
        let label = numbers(view.input("label")?.shallow_clone())?;
        let captions = share.iter().zip(&class).zip(&label).map(|((share, class), label)| {
            let verdict = if class == label { "right" } else { "wrong" };
            format!("says {class} ({:.0} %) is {label}: {verdict}", 100.0 * share)
        });
        let panels = (self.panels)(view)?.into_iter().zip(captions);
        let rows = panels.map(|(panel, caption)| vec![Panel { caption, ..panel }]).collect();
        let caption = "The class that the model says, the probability it gives it, and the true class.".to_owned();
        Ok(Sheet { columns: vec!["sample".to_owned()], rows, caption })
    }

    fn flops(&self, seen: f64, _: f64) -> Option<f64> {
        let head = 2.0 * self.head.weight.numel() as f64;
        Some(3.0 * ((self.flops)(seen) + head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::DeviceDraft;
    use crate::nn::Parameters;
    use crate::plan::DevicePlan;
    use crate::schedule::Clock;
    use crate::{Grid, Layout, Named, Totals};
    use std::rc::Rc;
    use tch::Device;

    /// An encoder that gives its input as tokens, the first of which is a class token.
    struct Given;

    impl Encoder for Given {
        fn encode(&self, view: &View, _: Option<&DevicePlan>, _: &Want, _: &Step<'_>) -> Result<Features> {
            Ok(Features { layers: vec![view.input("x")?.shallow_clone()], prefix: 1, valid: None, attention: None })
        }
        fn depth(&self) -> usize {
            1
        }
        fn width(&self) -> i64 {
            3
        }
    }

    fn classifier(config: &HeadConfig) -> Result<(Rc<Parameters>, Classifier<Given>)> {
        let parameters = Parameters::new(Device::Cpu, 0);
        let parts = Parts { classes: 3, norm_eps: 1e-6, prefix: 1, panels: |_| Ok(Vec::new()) };
        let built = Classifier::new(&parameters.root().at_layer(2), config, Given, &parts, Box::new(|seen| seen))?;
        Ok((parameters, built))
    }

    const CLOCK: Clock = Clock { step: 0, steps: 1, epoch: 0, steps_in_epoch: 1 };

    /// The logits of the timm numbers below as class tokens; the other token is the negative.
    fn batch(share: f32) -> Batch {
        let logits = [[0.5f32, -1.0, 2.0], [0.0, 1.0, -1.0], [3.0, 0.2, 0.1], [-0.4, 0.6, 0.9]];
        let x = Tensor::from_slice(&logits.concat()).view([4, 1, 3]);
        let inputs = Named::from([
            ("x".to_owned(), Tensor::cat(&[&x, &x.neg()], 1)),
            ("label".to_owned(), Tensor::from_slice(&[0i64, 2, 1, 2])),
            ("other".to_owned(), Tensor::from_slice(&[2i64, 1, 2, 0])),
            ("share".to_owned(), Tensor::from_slice(&[share; 4])),
        ]);
        let view = View { inputs, layout: Layout::single(Grid::plane(1, 1)), draft: DeviceDraft::Whole };
        let totals = Totals { samples: 4.0, scored: vec![0.0], hidden: [0.0, 4.0] };
        Batch { views: vec![view], ids: (0..4).collect(), totals }
    }

    fn loss(classifier: &Classifier<Given>, share: f32, train: bool) -> f64 {
        let step = Step { clock: &CLOCK, train, micro: 0 };
        f64::try_from(classifier.loss(&batch(share), &step).unwrap().loss(1).unwrap()).unwrap()
    }

    /// timm 1.0.19, labels 0 2 1 2 with smoothing 0.1: `SoftTargetCrossEntropy` of `Mixup`'s targets at a share of 0.7,
    /// and `LabelSmoothingCrossEntropy`. In evaluation there is neither.
    #[test]
    fn losses_are_timms() {
        let (parameters, classifier) = classifier(&HeadConfig { pool: Pool::Class, ..HeadConfig::default() }).unwrap();
        let identity = Named::from([("head.weight".to_owned(), Tensor::eye(3, (Kind::Float, Device::Cpu)))]);
        parameters.load(&identity, false).unwrap();
        assert!((loss(&classifier, 0.7, true) - 1.763_663_1).abs() < 1e-6);
        assert!((loss(&classifier, 1.0, true) - 1.905_413_0).abs() < 1e-6);
        // By hand: log sum exp less the label's logit.
        let plain = [1.741_311_3, 2.407_606_0, 2.909_601_5, 0.699_800_0];
        let mean = plain.iter().sum::<f64>() / 4.0;
        assert!((loss(&classifier, 1.0, false) - mean).abs() < 1e-5, "{}", loss(&classifier, 1.0, false));
        let step = Step { clock: &CLOCK, train: false, micro: 0 };
        let logits = classifier.classify(&batch(1.0), &step).unwrap().unwrap();
        assert_eq!(Vec::<i64>::try_from(logits.argmax(1, false)).unwrap(), [2, 1, 0, 2]);
    }

    /// The mean pool reads the other token through a fresh norm; parameters lie in the topmost layer.
    #[test]
    fn pools_read_what_they_say() {
        let (parameters, classifier) = classifier(&HeadConfig::default()).unwrap();
        let names: Vec<String> = parameters.named().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["norm.weight", "norm.bias", "head.bias", "head.weight"]);
        parameters.each(|parameter| assert_eq!(parameter.layer, 2));
        let features = classifier.encoder.encode(
            &batch(1.0).views[0],
            None,
            &Want::last(),
            &Step { clock: &CLOCK, train: false, micro: 0 },
        );
        let pooled = classifier.pooled(&features.unwrap()).unwrap();
        let row: Vec<f32> = Vec::try_from(pooled.get(1)).unwrap();
        // -(0, 1, -1) standardised.
        assert!(row.iter().zip([0.0, -1.224_744, 1.224_744]).all(|(a, b)| (a - b).abs() < 1e-5), "{row:?}");
        for (config, key) in [
            (HeadConfig { std: 0.0, ..HeadConfig::default() }, "head.std"),
            (HeadConfig { smoothing: 1.0, ..HeadConfig::default() }, "head.smoothing"),
        ] {
            assert!(self::classifier(&config).err().unwrap().to_string().starts_with(key));
        }
    }
}
