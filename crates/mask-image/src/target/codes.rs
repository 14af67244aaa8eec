//! Ids of a tokenizer or of clusters as a target.

use mask_core::data::{Front, LabelledFront};
use mask_core::method::{Sheet, Tokenizer};
use mask_core::nn::Scope;
use mask_core::stage::{Mention, Model, State};
use mask_core::{Artefact, DevicePlan, Error, Ids, Result, Site, Split, Teacher, View};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::data::ImageData;
use crate::picture::{columns_of, rows_of};

/// Recipe keys of a target of ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodesConfig {
    /// The stage that gives them: one that trains a tokenizer, which is then asked for every crop; or one that has
    /// labelled all samples (`codes`, `labels`), whose pictures must then be trained on as they are.
    pub codes: String,
    /// How many ids there are.
    pub ids: i64,
}

impl Default for CodesConfig {
    /// BEiT's.
    fn default() -> Self {
        Self { codes: "tokenizer".to_owned(), ids: 8192 }
    }
}

/// The kind of the stages that train a model.
const TRAIN: &str = "train";

impl CodesConfig {
    /// The key that names a stage, below `part`.
    #[must_use]
    pub fn mention(&self, part: &str) -> Mention {
        (format!("{part}.codes"), self.codes.clone())
    }

    /// A front with the labels of the stage as inputs, where it isn't a tokenizer that is asked.
    ///
    /// # Errors
    /// Labels of other samples, another number of ids, crops or flips that labels don't follow.
    pub fn front(&self, inner: Box<dyn Front>, site: &Site<'_, ImageData>) -> Result<Box<dyn Front>> {
        let from = match site.made.get(&self.codes) {
            Ok(artefact) => artefact,
            // Only plans are drawn over noise without stages.
            Err(_) if site.split == Split::Synthetic => return Ok(inner),
            Err(error) => return Err(error),
        };
        if from.kind == TRAIN {
            return Ok(inner);
        }
        if site.data.augment != site.data.augment.still() {
            let problem = format!(
                "stage {} labelled pictures as they are, and random crops, flips or colours don't keep them: turn them \
                 off (crop: null, flip: 0), or let a tokenizer be asked",
                self.codes
            );
            return Err(Error::value("augment", problem));
        }
        let ids = u32::try_from(self.ids).map_err(|_| Error::value("ids", format!("{} is out of range", self.ids)))?;
        Ok(Box::new(LabelledFront::new(inner, site, &self.codes, ids)?))
    }

    /// The target.
    ///
    /// # Errors
    /// A stage that trains no tokenizer, or one of another number of ids.
    pub fn build(&self, at: &Scope) -> Result<Codes> {
        if !(1..=1 << 24).contains(&self.ids) {
            return Err(Error::value("ids", format!("{} is not a number from 1 to 16777216", self.ids)));
        }
        let from = at.made(&self.codes)?;
        if from.kind != TRAIN {
            return Ok(Codes { source: Source::Input });
        }
        if from.state == State::Missing {
            return Ok(Codes { source: Source::Missing(Box::new(from.clone())) });
        }
        let model = from.model(at.device())?;
        let tokenizer = tokenizer(&model).map_err(|error| error.within("codes"))?;
        match tokenizer.sizes().as_slice() {
            [ids] if i64::from(*ids) == self.ids => {
                Ok(Codes { source: Source::Asked(Box::new(Teacher::frozen(model))) })
            }
            sizes => {
                let problem = format!("{} is not the number of ids of stage {}, {sizes:?}", self.ids, self.codes);
                Err(Error::value("ids", problem))
            }
        }
    }
}

fn tokenizer(model: &Model) -> Result<&dyn Tokenizer> {
    let name = model.resolved.entry.card.name;
    let found = model.method.tokenizer();
    found.ok_or_else(|| Error::value("codes", format!("the stage trains {name}, which is no tokenizer")))
}

enum Source {
    /// The front gives them.
    Input,
    /// A frozen tokenizer gives them.
    Asked(Box<Teacher<Model>>),
    /// The tokenizer isn't there: the model encodes, but can't be trained or asked for its loss.
    Missing(Box<Artefact>),
}

/// Ids of the positions of a view.
pub struct Codes {
    source: Source,
}

impl Codes {
    /// The ids of all positions, [B, L].
    ///
    /// # Errors
    /// Inputs that don't fit, a tokenizer that isn't there.
    pub fn all(&self, view: &View) -> Result<Tensor> {
        match &self.source {
            Source::Input => Ok(view.input("codes")?.shallow_clone()),
            Source::Asked(model) => model.ask(|model| Ok(tokenizer(model)?.ids(view)?.squeeze_dim(1))),
            Source::Missing(artefact) => Err(artefact.absent()),
        }
    }

    /// The ids of some positions, `[N]`.
    ///
    /// # Errors
    /// As [`Codes::all`]; another grid than the plan's.
    pub fn at(&self, view: &View, scored: &Ids) -> Result<Tensor> {
        let all = self.all(view)?;
        let length = view.layout.len() as i64;
        if all.size().get(1) != Some(&length) {
            return Err(Error::shape(
                "codes",
                format!("[batch, {length}], one for each patch of the encoder"),
                &all.size(),
            ));
        }
        Ok(scored.take_flat(&all.unsqueeze(2)).squeeze_dim(1))
    }

    /// Original, what is hidden, what the true ids stand for, and what the answered ones do: a row for each sample.
    ///
    /// `answers` [N, ids] are logits at the scored positions. Ids of a tokenizer are shown as it decodes them, others as
    /// shades of grey.
    ///
    /// # Errors
    /// Shapes that don't fit.
    pub fn sheet(&self, answers: &Tensor, view: &View, plan: &DevicePlan) -> Result<Sheet> {
        let ids = self.all(view)?; // [B, L]
        let answered = ids.view([-1]).index_copy(0, &plan.scored.flat, &answers.argmax(1, false)).view_as(&ids);
        let pixels = view.input("pixels")?.to_kind(Kind::Float);
        let grid: Vec<i64> = view.layout.grid()?.dims().iter().map(|side| *side as i64).collect();
        let large = |cells: &Tensor| -> Result<Tensor> {
            // [B, L] to [B, 1, H, W], each value over its patch.
            let [height, width] = [pixels.size()[2], pixels.size()[3]];
            let cells = cells.view([-1, 1, grid[0], grid[1]]);
            let rows = cells.repeat_interleave_self_int(height / grid[0], 2, None);
            Ok(rows.repeat_interleave_self_int(width / grid[1], 3, None))
        };
        let shown = &pixels * large(&plan.hidden.logical_not().to_kind(Kind::Float))?;
        let picture = |ids: &Tensor| match &self.source {
            Source::Asked(model) => model.ask(|model| tokenizer(model)?.decode(&ids.unsqueeze(1))),
            _ => {
                // Neighbouring numbers get unlike shades.
                let shades = (ids.to_kind(Kind::Float) * 0.618_034).frac() * 4.0 - 2.0;
                Ok(large(&shades)?.expand_as(&pixels))
            }
        };
        let images = [pixels.shallow_clone(), shown, picture(&ids)?, picture(&answered)?];
        let caption = match &self.source {
            Source::Asked(_) => "What ids stand for is what the tokenizer decodes them to.",
            _ => "Each id is a shade of grey.",
        };
        Ok(Sheet {
            columns: columns_of(["original", "hidden", "ids", "ids with answers"]),
            rows: rows_of(&images, view)?,
            caption: caption.to_owned(),
        })
    }
}
