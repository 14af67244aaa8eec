//! A codebook that follows its vectors: vector quantisation with moving averages.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::scope::{Init, Scope};
use crate::method::Reduce;
use crate::{Error, Named, Result};

/// Recipe keys of [`Codebook`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodebookConfig {
    /// Codes.
    pub codes: i64,
    /// Numbers of a code.
    pub width: i64,
    /// Share of its old mean that a code keeps in a step.
    pub decay: f64,
    /// A code that stands for fewer vectors a step than this, on average, begins anew at one of the step's vectors.
    pub least: f64,
}

impl Default for CodebookConfig {
    /// van den Oord et al. 2017 (section 4, appendix A.1); codes are kept alive as in Jukebox.
    fn default() -> Self {
        Self { codes: 512, width: 64, decay: 0.99, least: 1.0 }
    }
}

impl CodebookConfig {
    /// # Errors
    /// The first key that is out of range.
    pub fn check(&self) -> Result<()> {
        for (key, number) in [("codes", self.codes), ("width", self.width)] {
            if !(1..=1 << 20).contains(&number) {
                return Err(Error::value(key, format!("{number} is not a number from 1 to 1048576")));
            }
        }
        if !(0.0..1.0).contains(&self.decay) {
            return Err(Error::value("decay", format!("{} lies outside 0 to 1 (excluded)", self.decay)));
        }
        if !(0.0..=1e9).contains(&self.least) {
            return Err(Error::value("least", format!("{} lies outside 0 to 1e9", self.least)));
        }
        Ok(())
    }
}

/// Codes that are the moving means of the vectors nearest to them. They get no gradient:
///
/// ```text
/// N_k <- decay N_k + (1 - decay) n_k        n_k vectors of this step are nearest to code k
/// m_k <- decay m_k + (1 - decay) sum of them
/// e_k  = m_k / N_k
/// ```
///
/// [`Codebook::quantise`] changes nothing; its notes go through the outcome of a loss, where micro-batches are added up,
/// to [`Codebook::follow`] in `after_step`.
#[derive(Debug)]
pub struct Codebook {
    /// [K, D].
    codes: Tensor,
    /// N, `[K]`.
    counts: Tensor,
    /// m, [K, D].
    sums: Tensor,
    decay: f64,
    least: f64,
}

/// Names of the notes: what each code stood for in a step, and vectors for those that begin anew.
const NOTES: [&str; 3] = ["codebook_counts", "codebook_sums", "codebook_fresh"];

/// What a codebook made of vectors.
#[derive(Debug)]
pub struct Quantised {
    /// The nearest code of each vector, `[N]`, int64.
    pub ids: Tensor,
    /// The codes, [N, D], through which gradients pass to the vectors as if nothing had happened.
    pub straight: Tensor,
    /// Squared distance of the vectors to their codes, mean over the numbers: `[N]`, float32; the gradient pulls the
    /// vectors.
    pub commitment: Tensor,
}

impl Codebook {
    /// A codebook whose codes start as normal numbers, each standing for one vector.
    ///
    /// # Errors
    /// Numbers out of range, or the name is taken.
    pub fn new(at: &Scope, config: &CodebookConfig) -> Result<Self> {
        config.check()?;
        let frozen = at.frozen();
        let codes = frozen.plain("codes", &[config.codes, config.width], Init::Normal(1.0))?;
        Ok(Self {
            counts: frozen.plain("counts", &[config.codes], Init::ONES)?,
            sums: at.table("sums", codes.copy())?,
            codes,
            decay: config.decay,
            least: config.least,
        })
    }

    /// How many codes there are.
    #[must_use]
    pub fn len(&self) -> i64 {
        self.codes.size()[0]
    }

    /// Whether there is none, which the config refuses.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The nearest codes of vectors [N, D], the first of several: `[N]`.
    ///
    /// # Errors
    /// Vectors of another width.
    pub fn ids(&self, x: &Tensor) -> Result<Tensor> {
        let (wide, size) = (self.codes.size()[1], x.size());
        if size.len() != 2 || size[1] != wide {
            return Err(Error::shape("vectors", format!("[vectors, {wide}]"), &size));
        }
        let x = x.detach().to_kind(Kind::Float);
        let norms = self.codes.square().sum_dim_intlist(1, false, Kind::Float);
        Ok((norms - x.matmul(&self.codes.tr()) * 2.0).argmin(1, false))
    }

    /// The codes of ids of any shape: [.., D].
    #[must_use]
    pub fn look_up(&self, ids: &Tensor) -> Tensor {
        let mut shape = ids.size();
        shape.push(self.codes.size()[1]);
        self.codes.index_select(0, &ids.reshape([-1])).view(shape.as_slice())
    }

    /// Puts codes in the place of vectors [N, D].
    ///
    /// # Errors
    /// Vectors of another width.
    pub fn quantise(&self, x: &Tensor) -> Result<Quantised> {
        let ids = self.ids(x)?;
        let x = x.to_kind(Kind::Float);
        let codes = self.look_up(&ids);
        let commitment = (&x - &codes).square().mean_dim(1, false, Kind::Float);
        let straight = &x + (&codes - &x).detach();
        Ok(Quantised { ids, straight, commitment })
    }

    /// What [`Codebook::follow`] needs to know of a micro-batch, and the codebook's state for the metrics: `perplexity`
    /// (exp of the entropy of N) and `used` (share of codes with N of at least half of `least`). `micro` is the
    /// micro-batch's number.
    #[must_use]
    pub fn notes(&self, x: &Tensor, ids: &Tensor, micro: u32) -> Vec<(&'static str, Tensor, Reduce)> {
        let x = x.detach().to_kind(Kind::Float);
        let counts = self.counts.zeros_like().index_add(0, ids, &ids.ones_like().to_kind(Kind::Float));
        let sums = self.sums.zeros_like().index_add(0, ids, &x);
        // Vectors drawn with replacement, of the first micro-batch alone, since notes are added up.
        let fresh = match micro {
            0 => x.index_select(0, &Tensor::randint(x.size()[0], [self.len()], (Kind::Int64, x.device()))),
            _ => self.sums.zeros_like(),
        };
        let share = &self.counts / self.counts.sum(Kind::Float);
        let entropy = -(&share * (&share + 1e-10).log()).sum(Kind::Float);
        let used = self.counts.ge(0.5 * self.least.max(1e-6)).to_kind(Kind::Float).mean(Kind::Float);
        vec![
            (NOTES[0], counts, Reduce::Sum),
            (NOTES[1], sums, Reduce::Sum),
            (NOTES[2], fresh, Reduce::Sum),
            ("perplexity", entropy.exp(), Reduce::Mean),
            ("used", used, Reduce::Mean),
        ]
    }

    /// One step of the moving means, from the notes of all micro-batches.
    ///
    /// # Errors
    /// Notes that aren't there.
    pub fn follow(&self, notes: &Named<Tensor>) -> Result<()> {
        let note = |name: &str| notes.get(name).ok_or_else(|| Error::Defect(format!("there is no note '{name}'")));
        let [counts, sums, fresh] = [note(NOTES[0])?, note(NOTES[1])?, note(NOTES[2])?];
        tch::no_grad(|| {
            let counts = &self.counts * self.decay + counts * (1.0 - self.decay);
            let sums = &self.sums * self.decay + sums * (1.0 - self.decay);
            let dead = counts.lt(self.least); // [K]
            let (mut own_counts, mut own_sums) = (self.counts.shallow_clone(), self.sums.shallow_clone());
            // One that begins anew stands for `least` vectors, so that it lives on for some steps at least.
            let least = counts.full_like(self.least);
            own_counts.copy_(&least.where_self(&dead, &counts));
            own_sums.copy_(&(fresh * self.least).where_self(&dead.unsqueeze(1), &sums));
            let mut codes = self.codes.shallow_clone();
            codes.copy_(&(&self.sums / self.counts.clamp_min(1e-12).unsqueeze(1)));
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Parameters;
    use proptest::prelude::*;
    use tch::Device;

    fn book(codes: &[f32], decay: f64, least: f64) -> Codebook {
        let config = CodebookConfig { codes: codes.len() as i64, width: 1, decay, least };
        let book = Codebook::new(&Parameters::new(Device::Cpu, 0).root(), &config).unwrap();
        let values = Tensor::from_slice(codes).view([-1, 1]);
        for table in [&book.codes, &book.sums] {
            table.shallow_clone().copy_(&values);
        }
        book
    }

    fn step(book: &Codebook, x: &[f32]) -> Vec<i64> {
        let x = Tensor::from_slice(x).view([-1, 1]);
        let ids = book.ids(&x).unwrap();
        let notes = book.notes(&x, &ids, 0).into_iter().map(|(name, tensor, _)| (name.to_owned(), tensor)).collect();
        book.follow(&notes).unwrap();
        Vec::try_from(ids).unwrap()
    }

    fn floats(x: &Tensor) -> Vec<f32> {
        Vec::try_from(x.reshape([-1])).unwrap()
    }

    /// van den Oord et al. 2017, appendix A.1, by hand: codes 0 and 10, decay 0.5; 1, 2 and 9 come. N = (1.5, 1),
    /// m = (0 / 2 + 3 / 2, 10 / 2 + 9 / 2), e = (1, 9.5).
    #[test]
    fn a_step_by_hand() {
        let book = book(&[0., 10.], 0.5, 0.0);
        assert_eq!(step(&book, &[1., 2., 9.]), [0, 0, 1]);
        assert_eq!(floats(&book.counts), [1.5, 1.0]);
        assert_eq!(floats(&book.codes), [1.0, 9.5]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        /// Closed form after n equal steps: N = d^n + (1 - d^n) n_k, m = d^n e_0 + (1 - d^n) s_k.
        #[test]
        fn the_closed_form(steps in 1u32..40, decay in 0.5f64..0.999, a in 0.0f32..2.0, b in 8.0f32..12.0) {
            let book = book(&[0., 10.], decay, 0.0);
            for _ in 0..steps {
                step(&book, &[a, a, b]);
            }
            let old = decay.powi(steps as i32);
            let counts = [old + (1.0 - old) * 2.0, old + (1.0 - old)];
            let sums = [(1.0 - old) * 2.0 * f64::from(a), old * 10.0 + (1.0 - old) * f64::from(b)];
            for k in 0..2 {
                prop_assert!((f64::from(floats(&book.counts)[k]) - counts[k]).abs() < 1e-4);
                prop_assert!((f64::from(floats(&book.codes)[k]) - sums[k] / counts[k]).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn a_code_that_stands_for_nothing_begins_anew() {
        let book = book(&[0., 1000.], 0.9, 1.0);
        step(&book, &[1., 1.]);
        // N of the second fell to 0.9: it took one of the vectors, 1, and stands for one now.
        assert_eq!((floats(&book.codes)[1], floats(&book.counts)[1]), (1.0, 1.0));
        assert!((floats(&book.codes)[0] - 0.2 / 1.1).abs() < 1e-6);
    }

    #[test]
    fn gradients_pass_straight_and_codes_get_none() {
        let book = book(&[0., 10.], 0.9, 0.0);
        let x = Tensor::from_slice(&[1f32, 8.0]).view([2, 1]).set_requires_grad(true);
        let found = book.quantise(&x).unwrap();
        assert_eq!(floats(&found.straight.detach()), [0., 10.]);
        assert_eq!(floats(&found.commitment.detach()), [1., 4.]);
        (found.straight * Tensor::from_slice(&[3f32, 5.0]).view([2, 1])).sum(Kind::Float).backward();
        assert_eq!(floats(&x.grad()), [3., 5.]);
        assert!(!book.codes.requires_grad() && book.ids(&x.view([1, 2])).is_err());
    }

    /// Perplexity: equal use of K codes gives K, one code gives 1; 1 : 3 gives exp(0.562335) = 1.754765.
    #[test]
    fn perplexity_pins() {
        let perplexity = |counts: &[f32]| {
            let book = book(&vec![0.0; counts.len()], 0.9, 1.0);
            book.counts.shallow_clone().copy_(&Tensor::from_slice(counts));
            let x = Tensor::zeros([1, 1], (Kind::Float, Device::Cpu));
            let notes = book.notes(&x, &Tensor::from_slice(&[0i64]), 0);
            notes.iter().find(|(name, ..)| *name == "perplexity").unwrap().1.double_value(&[])
        };
        for (counts, expected) in [(&[5.0f32; 8][..], 8.0), (&[7.0, 0.0, 0.0], 1.0), (&[1.0, 3.0], 1.754_765)] {
            assert!((perplexity(counts) - expected).abs() < 1e-4, "{counts:?}: {}", perplexity(counts));
        }
    }

    /// Notes of two micro-batches add up to those of the whole.
    #[test]
    fn micro_batches_add_up() {
        let (whole, parts) = (book(&[0., 10.], 0.5, 0.0), book(&[0., 10.], 0.5, 0.0));
        step(&whole, &[1., 2., 9., 8.]);
        let mut sum: Named<Tensor> = Named::new();
        for (micro, x) in [[1f32, 2.0], [9.0, 8.0]].iter().enumerate() {
            let x = Tensor::from_slice(x).view([2, 1]);
            for (name, note, _) in parts.notes(&x, &parts.ids(&x).unwrap(), micro as u32) {
                let all = sum.remove(name).map_or_else(|| note.shallow_clone(), |sum| sum + &note);
                sum.insert(name.to_owned(), all);
            }
        }
        parts.follow(&sum).unwrap();
        assert_eq!(floats(&whole.codes), floats(&parts.codes));
    }
}
