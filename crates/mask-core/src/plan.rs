//! What a method decided about a view: what is hidden, what stands there, who answers, what counts.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::grid::Layout;
use crate::{Error, Result};

/// What the encoder sees at a hidden position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Nothing: the position leaves the sequence (MAE).
    Drop,
    /// The mask token (SimMIM, BERT).
    MaskToken,
    /// Another token's id (BERT's random replacement).
    Value(i64),
    /// Its own content: selected and scored, but shown (BERT's unchanged tenth).
    Keep,
}

/// All that was decided about one view of one sample. Positions are numbers on the view's [`Layout`].
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What the encoder reads, in this order.
    pub seen: Vec<u32>,
    /// What was selected to be hidden.
    pub hidden: Vec<u32>,
    /// What stands at each of `hidden`, in its order.
    pub fill: Vec<Fill>,
    /// What the predictor answers for: one set a group (I-JEPA has four).
    pub queried: Vec<Vec<u32>>,
    /// What the loss counts; each lies in one of `queried`, and groups follow one another in the same order.
    pub scored: Vec<u32>,
    /// Weight of each of `scored`; none = 1.
    pub weights: Option<Vec<f32>>,
    /// Spans or words that were hidden as one, as ranges of positions.
    pub units: Vec<Range<u32>>,
}

impl Plan {
    /// Hides positions by dropping them; the encoder reads the others in ascending order, and all that is hidden is
    /// queried and scored.
    ///
    /// # Errors
    /// A position outside the layout, twice, or one that may not be hidden.
    pub fn hide(layout: &Layout, mut hidden: Vec<u32>) -> Result<Self> {
        let mut mask = vec![false; layout.len()];
        for &position in &hidden {
            match mask.get_mut(position as usize) {
                Some(slot) if !*slot => *slot = true,
                Some(_) => return Err(Error::value("plan", format!("position {position} is hidden twice"))),
                None => return Err(Error::value("plan", format!("position {position} lies outside the view"))),
            }
        }
        if let Some(position) = layout.fixed().iter().find(|position| mask[**position as usize]) {
            return Err(Error::value("plan", format!("position {position} may not be hidden (padding or special)")));
        }
        hidden.sort_unstable();
        let seen = (0..layout.len() as u32).filter(|position| !mask[*position as usize]).collect();
        Ok(Self::of(seen, hidden))
    }

    /// Hides what `mask` marks (`true` = hidden).
    ///
    /// # Errors
    /// As [`Plan::hide`], or a mask of another length.
    pub fn from_mask(layout: &Layout, mask: &[bool]) -> Result<Self> {
        if mask.len() != layout.len() {
            return Err(Error::shape("mask", layout.len().to_string(), &[mask.len() as i64]));
        }
        Self::hide(layout, (0..mask.len() as u32).filter(|position| mask[*position as usize]).collect())
    }

    /// Keeps the `keep` positions of the smallest noise, in ascending order of noise, a tie going to the lower
    /// position, and drops the others (MAE's `random_masking`). All positions of the grid may be hidden.
    #[must_use]
    pub fn keep_lowest(noise: &[f32], keep: usize) -> Self {
        let mut order: Vec<u32> = (0..noise.len() as u32).collect();
        order.sort_by(|a, b| noise[*a as usize].total_cmp(&noise[*b as usize]));
        let mut hidden = order.split_off(keep.min(order.len()));
        hidden.sort_unstable();
        Self::of(order, hidden)
    }

    /// Nothing hidden: the encoder reads everything.
    #[must_use]
    pub fn nothing_hidden(layout: &Layout) -> Self {
        Self::of((0..layout.len() as u32).collect(), Vec::new())
    }

    fn of(seen: Vec<u32>, hidden: Vec<u32>) -> Self {
        Self {
            seen,
            fill: vec![Fill::Drop; hidden.len()],
            queried: vec![hidden.clone()],
            scored: hidden.clone(),
            hidden,
            weights: None,
            units: Vec::new(),
        }
    }

    /// The same plan with something else at the hidden positions: `fill` is asked once for each, in order. What is
    /// not dropped enters the sequence again, which the encoder then reads in ascending order.
    #[must_use]
    pub fn filled(mut self, mut fill: impl FnMut(u32) -> Fill) -> Self {
        for (place, &position) in self.fill.iter_mut().zip(&self.hidden) {
            *place = fill(position);
        }
        let back = self.hidden.iter().zip(&self.fill).filter(|(_, fill)| **fill != Fill::Drop).map(|(p, _)| *p);
        self.seen.retain(|position| self.hidden.binary_search(position).is_err());
        self.seen.extend(back);
        self.seen.sort_unstable();
        self
    }

    /// The mask on a layout of `length` positions, `true` = hidden.
    #[must_use]
    pub fn mask(&self, length: usize) -> Vec<bool> {
        marked(&self.hidden, length)
    }

    /// Checks what every plan must hold; samplers of other crates are outside data, too.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self, layout: &Layout) -> Result<()> {
        let bad = |problem: String| Err(Error::value("plan", problem));
        let sets = [("seen", &self.seen), ("hidden", &self.hidden), ("scored", &self.scored)];
        for (name, set) in sets.into_iter().chain(self.queried.iter().map(|set| ("queried", set))) {
            if let Some(position) = set.iter().find(|position| **position as usize >= layout.len()) {
                return bad(format!("position {position} of {name} lies outside the {} tokens", layout.len()));
            }
        }
        if self.fill.len() != self.hidden.len() {
            return bad(format!("{} fills for {} hidden positions", self.fill.len(), self.hidden.len()));
        }
        if self.weights.as_ref().is_some_and(|weights| weights.len() != self.scored.len()) {
            return bad("weights and scored positions differ in number".to_owned());
        }
        let mut rest = self.queried.iter().flatten();
        if !self.scored.iter().all(|position| rest.any(|queried| queried == position)) {
            return bad("a scored position is not queried, or their orders differ".to_owned());
        }
        Ok(())
    }
}

fn marked(positions: &[u32], length: usize) -> Vec<bool> {
    let mut mask = vec![false; length];
    for &position in positions {
        mask[position as usize] = true;
    }
    mask
}

/// A plan, or what the loader can decide of one whose places only a model can settle.
#[derive(Clone, Debug, PartialEq)]
pub enum Draft {
    /// Everything is decided.
    Ready(Plan),
    /// How many are hidden is decided; which ones, `Sampler::select` says once a model gave its scores.
    Open {
        /// Uniform noise, one value a position.
        noise: Vec<f32>,
        /// Counts: first how many positions are hidden, then what the sampler wants.
        counts: Vec<u32>,
    },
}

/// Positions of several rows of `length` tokens each, ragged: row `b` is `flat[offsets[b]..offsets[b + 1]]`, each
/// entry a number into B x L.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positions {
    /// Numbers into B x L.
    pub flat: Vec<i64>,
    /// B + 1 offsets into `flat`.
    pub offsets: Vec<i64>,
    /// Tokens of a row, L.
    pub length: usize,
}

impl Positions {
    /// Joins the sets of several rows.
    pub fn collate<'a>(rows: impl IntoIterator<Item = &'a [u32]>, length: usize) -> Self {
        let (mut flat, mut offsets) = (Vec::new(), vec![0]);
        for (row, set) in rows.into_iter().enumerate() {
            flat.extend(set.iter().map(|position| (row * length) as i64 + i64::from(*position)));
            offsets.push(flat.len() as i64);
        }
        Self { flat, offsets, length }
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The longest row.
    #[must_use]
    pub fn widest(&self) -> usize {
        self.offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0)
    }

    /// The padded form, [B, K]: positions inside a row (padding repeats position 0), and which entries are real.
    #[must_use]
    pub fn padded(&self) -> (Vec<i64>, Vec<bool>) {
        let width = self.widest();
        let (mut ids, mut valid) = (vec![0; self.rows() * width], vec![false; self.rows() * width]);
        for (row, pair) in self.offsets.windows(2).enumerate() {
            for (column, flat) in self.flat[pair[0] as usize..pair[1] as usize].iter().enumerate() {
                ids[row * width + column] = flat - (row * self.length) as i64;
                valid[row * width + column] = true;
            }
        }
        (ids, valid)
    }

    /// Both forms as tensors on a device.
    #[must_use]
    pub fn to_device(&self, device: Device) -> Ids {
        let (ids, valid) = self.padded();
        let shape = [self.rows() as i64, self.widest() as i64];
        let slots: Vec<i64> = (0..valid.len() as i64).filter(|slot| valid[*slot as usize]).collect();
        let full = slots.len() == valid.len();
        Ids {
            padded: Tensor::from_slice(&ids).view(shape).to_device(device),
            valid: (!full).then(|| Tensor::from_slice(&valid).view(shape).to_device(device)),
            flat: Tensor::from_slice(&self.flat).to_device(device),
            slots: Tensor::from_slice(&slots).to_device(device),
            length: self.length as i64,
        }
    }
}

/// Positions on the device, ragged and padded: made by [`Positions::to_device`] or by `Sampler::select`.
#[derive(Debug)]
pub struct Ids {
    /// [B, K], positions inside a row; padding repeats position 0.
    pub padded: Tensor,
    /// [B, K], `true` = real; none when nothing is padded.
    pub valid: Option<Tensor>,
    /// `[N]`, numbers into B x L.
    pub flat: Tensor,
    /// `[N]`, numbers into B x K: where each of `flat` stands in the padded form.
    pub slots: Tensor,
    /// Tokens of a row, L.
    pub length: i64,
}

impl Ids {
    /// Equal counts a row, nothing padded: `padded` [B, K].
    #[must_use]
    pub fn full(padded: Tensor, length: i64) -> Self {
        let (rows, width) = (padded.size()[0], padded.size()[1]);
        let start = Tensor::arange(rows, (Kind::Int64, padded.device())).view([rows, 1]) * length;
        let flat = (&padded + start).view([-1]);
        let slots = Tensor::arange(rows * width, (Kind::Int64, padded.device()));
        Self { padded, valid: None, flat, slots, length }
    }

    /// The first positions of each row of `order` [B, L], `counts[b]` of row `b`.
    #[must_use]
    pub fn first(order: &Tensor, counts: &[u32]) -> Self {
        let (rows, length) = (order.size()[0], order.size()[1]);
        let widest = counts.iter().copied().max().unwrap_or(0);
        let padded = order.slice(1, 0, i64::from(widest), 1).contiguous();
        if counts.iter().all(|count| *count == widest) {
            return Self::full(padded, length);
        }
        let valid: Vec<bool> = counts.iter().flat_map(|count| (0..widest).map(move |slot| slot < *count)).collect();
        let slots: Vec<i64> = (0..valid.len() as i64).filter(|slot| valid[*slot as usize]).collect();
        let valid = Tensor::from_slice(&valid).view(&padded.size()[..]).to_device(order.device());
        let slots = Tensor::from_slice(&slots).to_device(order.device());
        let padded = padded * valid.to_kind(Kind::Int64); // padding repeats position 0
        let start = Tensor::arange(rows, (Kind::Int64, order.device())).view([rows, 1]) * length;
        let flat = (&padded + start).view([-1]).index_select(0, &slots);
        Self { padded, valid: Some(valid), flat, slots, length }
    }

    /// The same positions; the tensors are shared.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        let share = Tensor::shallow_clone;
        Self {
            padded: share(&self.padded),
            valid: self.valid.as_ref().map(share),
            flat: share(&self.flat),
            slots: share(&self.slots),
            length: self.length,
        }
    }

    /// All positions of `rows` rows.
    #[must_use]
    pub fn everything(rows: i64, length: i64, device: Device) -> Self {
        let padded = Tensor::arange(length, (Kind::Int64, device)).view([1, length]).expand([rows, length], false);
        Self::full(padded.contiguous(), length)
    }

    /// Rows, B.
    #[must_use]
    pub fn rows(&self) -> i64 {
        self.padded.size()[0]
    }

    /// Width of the padded form, K.
    #[must_use]
    pub fn width(&self) -> i64 {
        self.padded.size()[1]
    }

    /// Rows of `table` [L, D] at these positions: [B, K, D].
    #[must_use]
    pub fn look_up(&self, table: &Tensor) -> Tensor {
        // Every size is named: libtorch can't infer one where no position is left.
        let shape = [self.rows(), self.width(), table.size()[1]];
        table.index_select(0, &self.padded.view([-1])).view(shape)
    }

    /// Tokens of `all` [B, L, D] at these positions: [B, K, D].
    #[must_use]
    pub fn take(&self, all: &Tensor) -> Tensor {
        let depth = all.size()[2];
        let start = Tensor::arange(self.rows(), (Kind::Int64, all.device())).view([-1, 1]) * self.length;
        let flat = (&self.padded + start).view([-1]);
        all.reshape([-1, depth]).index_select(0, &flat).view([self.rows(), self.width(), depth])
    }

    /// Tokens of `all` [B, L, D] at the real positions only: [N, D].
    #[must_use]
    pub fn take_flat(&self, all: &Tensor) -> Tensor {
        all.reshape([-1, all.size()[2]]).index_select(0, &self.flat)
    }

    /// Real entries of a padded answer [B, K, P]: [N, P].
    #[must_use]
    pub fn unpad(&self, padded: &Tensor) -> Tensor {
        let flat = padded.reshape([-1, padded.size()[2]]);
        if self.valid.is_none() { flat } else { flat.index_select(0, &self.slots) }
    }
}

impl Ids {
    /// Numbers of the real positions `[N]` in the padded form [B, K], 0 where it is padded.
    #[must_use]
    pub fn pad(&self, flat: &Tensor) -> Tensor {
        let shape = [self.rows(), self.width()];
        if self.valid.is_none() {
            return flat.view(shape);
        }
        let zeros = Tensor::zeros([shape[0] * shape[1]], (flat.kind(), flat.device()));
        zeros.index_copy(0, &self.slots, flat).view(shape)
    }
}

/// One group of queries: what the predictor answers for, and where it finds it. A predictor's sequence is what the
/// encoder read, [B, K seen], then a mask token for each queried position that it has not read, [B, K fresh].
#[derive(Debug)]
pub struct Query {
    /// The queried positions.
    pub ids: Ids,
    /// Those that the encoder has not read.
    pub fresh: Ids,
    /// `[N]`, where each queried position stands in B x (K seen + K fresh); none = nothing queried was read, so the
    /// answers are those of `fresh`.
    pub places: Option<Tensor>,
}

impl Query {
    fn collate(plans: &[&Plan], group: usize, length: usize, seen: &Positions, device: Device) -> Self {
        let ids = Positions::collate(plans.iter().map(|plan| plan.queried[group].as_slice()), length);
        let mut slots: Vec<Vec<Option<usize>>> = vec![vec![None; length]; plans.len()];
        let mut fresh: Vec<Vec<u32>> = vec![Vec::new(); plans.len()];
        let mut read = false;
        for (row, plan) in plans.iter().enumerate() {
            plan.seen.iter().enumerate().for_each(|(slot, position)| slots[row][*position as usize] = Some(slot));
            for &position in &plan.queried[group] {
                let slot = &mut slots[row][position as usize];
                if slot.is_none() {
                    *slot = Some(seen.widest() + fresh[row].len());
                    fresh[row].push(position);
                } else {
                    read = true;
                }
            }
        }
        let fresh = Positions::collate(fresh.iter().map(Vec::as_slice), length);
        let width = seen.widest() + fresh.widest();
        let places = read.then(|| {
            let place =
                |(row, position): (usize, &u32)| slots[row][*position as usize].map(|s| (row * width + s) as i64);
            let queried =
                plans.iter().enumerate().flat_map(|(row, plan)| plan.queried[group].iter().map(move |p| (row, p)));
            Tensor::from_slice(&queried.filter_map(place).collect::<Vec<_>>()).to_device(device)
        });
        Self { ids: ids.to_device(device), fresh: fresh.to_device(device), places }
    }

    /// What was asked for of a sequence [B, K seen + K fresh, D]: [N queried, D].
    #[must_use]
    pub fn take(&self, sequence: &Tensor) -> Tensor {
        let depth = sequence.size()[2];
        match &self.places {
            Some(places) => sequence.reshape([-1, depth]).index_select(0, places),
            None => self.fresh.unpad(&sequence.slice(1, sequence.size()[1] - self.fresh.width(), None, 1)),
        }
    }
}

/// The plans of a micro-batch on the device.
#[derive(Debug)]
pub struct DevicePlan {
    /// What the encoder reads.
    pub seen: Ids,
    /// What the predictor answers for, group by group.
    pub queried: Vec<Query>,
    /// What the loss counts, `[N]`.
    pub scored: Ids,
    /// `[N]`: which of all answers (groups one after another) are scored; none = all of them, in order.
    pub scored_answers: Option<Tensor>,
    /// [B, L], `true` = hidden.
    pub hidden: Tensor,
    /// [B, L], `true` = the mask token stands there; none where no plan has one.
    pub mask_tokens: Option<Tensor>,
    /// Numbers into B x L and the ids that stand there instead; none where no plan has one.
    pub values: Option<(Tensor, Tensor)>,
    /// `[N]`, the weight of each scored position; none = 1.
    pub weights: Option<Tensor>,
}

impl DevicePlan {
    /// Joins the plans of a micro-batch, all on layouts of `length` positions, and moves them to the device.
    ///
    /// # Errors
    /// No plan, or plans with different numbers of groups.
    pub fn collate(plans: &[&Plan], length: usize, device: Device) -> Result<Self> {
        let groups = plans.first().map_or(0, |plan| plan.queried.len());
        if plans.is_empty() || plans.iter().any(|plan| plan.queried.len() != groups) {
            return Err(Error::value("plan", "the plans of a batch need the same number of query groups"));
        }
        let collate = |set: &dyn Fn(&Plan) -> &[u32]| Positions::collate(plans.iter().map(|plan| set(plan)), length);
        let seen = collate(&|plan| &plan.seen);
        let queried: Vec<Positions> = (0..groups).map(|group| collate(&|plan| &plan.queried[group])).collect();
        // With several groups the scored follow group by group, as the answers do.
        let (mut scored_rows, mut scored_answers, mut first) = (vec![Vec::new(); plans.len()], Vec::new(), 0);
        let mut cursors = vec![0usize; plans.len()];
        let mut scored_flat = Vec::new();
        for set in &queried {
            for (row, pair) in set.offsets.windows(2).enumerate() {
                for answer in pair[0]..pair[1] {
                    let position = (set.flat[answer as usize] - (row * length) as i64) as u32;
                    if plans[row].scored.get(cursors[row]) == Some(&position) {
                        cursors[row] += 1;
                        scored_rows[row].push(position);
                        scored_answers.push(first + answer);
                        scored_flat.push(set.flat[answer as usize]);
                    }
                }
            }
            first += set.flat.len() as i64;
        }
        let all = scored_answers.len() as i64 == first;
        let mut scored = Positions::collate(scored_rows.iter().map(Vec::as_slice), length).to_device(device);
        if groups > 1 {
            scored.flat = Tensor::from_slice(&scored_flat).to_device(device);
        }
        let rows = plans.len() as i64;
        let grid = |mask: Vec<bool>| Tensor::from_slice(&mask).view([rows, length as i64]).to_device(device);
        let hidden = grid(plans.iter().flat_map(|plan| plan.mask(length)).collect());
        let with_token = |plan: &&Plan| {
            let at = plan.hidden.iter().zip(&plan.fill).filter(|(_, fill)| **fill == Fill::MaskToken);
            marked(&at.map(|(position, _)| *position).collect::<Vec<_>>(), length)
        };
        let any = plans.iter().any(|plan| plan.fill.contains(&Fill::MaskToken));
        let mask_tokens = any.then(|| grid(plans.iter().flat_map(with_token).collect()));
        let mut values = (Vec::new(), Vec::new());
        for (row, plan) in plans.iter().enumerate() {
            for (position, fill) in plan.hidden.iter().zip(&plan.fill) {
                if let Fill::Value(id) = fill {
                    values.0.push((row * length) as i64 + i64::from(*position));
                    values.1.push(*id);
                }
            }
        }
        let tensor = |numbers: &[i64]| Tensor::from_slice(numbers).to_device(device);
        let weights: Option<Vec<f32>> = plans.iter().any(|plan| plan.weights.is_some()).then(|| {
            plans.iter().flat_map(|p| p.weights.clone().unwrap_or_else(|| vec![1.0; p.scored.len()])).collect()
        });
        Ok(Self {
            seen: seen.to_device(device),
            queried: (0..groups).map(|group| Query::collate(plans, group, length, &seen, device)).collect(),
            scored,
            scored_answers: (!all).then(|| tensor(&scored_answers)),
            hidden,
            mask_tokens,
            values: (!values.0.is_empty()).then(|| (tensor(&values.0), tensor(&values.1))),
            weights: weights.map(|weights| Tensor::from_slice(&weights).to_device(device)),
        })
    }

    /// Settled on the device: what `hidden` [B, L] marks is dropped, queried and scored, in ascending order; the
    /// encoder reads the rest. `counts[b]` is the number hidden of row `b`, which the host knew before.
    #[must_use]
    pub fn hiding(hidden: Tensor, counts: &[u32]) -> Self {
        let length = hidden.size()[1];
        let positions = Tensor::arange(length, (Kind::Int64, hidden.device()));
        // What is wanted comes first, each part in ascending order: all keys differ.
        let first = |wanted: &Tensor| (positions.shallow_clone() + wanted.logical_not() * length).argsort(1, false);
        let seen: Vec<u32> = counts.iter().map(|count| length as u32 - count).collect();
        let ids = Ids::first(&first(&hidden), counts);
        Self {
            seen: Ids::first(&first(&hidden.logical_not()), &seen),
            queried: vec![Query { ids: ids.shallow_clone(), fresh: ids.shallow_clone(), places: None }],
            scored: ids,
            scored_answers: None,
            hidden,
            mask_tokens: None,
            values: None,
            weights: None,
        }
    }

    /// Nothing is hidden, everything is read and queried, in the order of positions; nothing is scored.
    #[must_use]
    pub fn asking_all(rows: i64, length: i64, device: Device) -> Self {
        let hidden = Tensor::zeros([rows, length], (Kind::Bool, device));
        let mut plan = Self::hiding(hidden, &vec![0; rows as usize]);
        for query in &mut plan.queried {
            query.ids = Ids::everything(rows, length, device);
            query.places = Some(query.ids.flat.shallow_clone());
        }
        plan
    }

    /// The same plan; the tensors are shared.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        let share = |tensor: &Option<Tensor>| tensor.as_ref().map(Tensor::shallow_clone);
        let query = |query: &Query| Query {
            ids: query.ids.shallow_clone(),
            fresh: query.fresh.shallow_clone(),
            places: share(&query.places),
        };
        Self {
            seen: self.seen.shallow_clone(),
            queried: self.queried.iter().map(query).collect(),
            scored: self.scored.shallow_clone(),
            scored_answers: share(&self.scored_answers),
            hidden: self.hidden.shallow_clone(),
            mask_tokens: share(&self.mask_tokens),
            values: self.values.as_ref().map(|(at, ids)| (at.shallow_clone(), ids.shallow_clone())),
            weights: share(&self.weights),
        }
    }

    /// One group of queries.
    ///
    /// # Errors
    /// The plan has no such group.
    pub fn query(&self, group: usize) -> Result<&Query> {
        self.queried.get(group).ok_or_else(|| Error::Defect(format!("the plan has no query group {group}")))
    }

    /// The same choice with mask tokens in place of what was dropped: the encoder reads everything.
    #[must_use]
    pub fn with_mask_tokens(mut self) -> Self {
        self.seen = Ids::everything(self.seen.rows(), self.seen.length, self.hidden.device());
        self.mask_tokens = Some(self.hidden.shallow_clone());
        for query in &mut self.queried {
            query.places = Some(query.ids.flat.shallow_clone());
            query.fresh = Ids::full(query.ids.padded.slice(1, 0, 0, 1), query.ids.length);
        }
        self
    }

    /// Those of `answers` [N queried, P] (groups one after another) that are scored: [N scored, P].
    #[must_use]
    pub fn scored_of(&self, answers: &Tensor) -> Tensor {
        match &self.scored_answers {
            Some(rows) => answers.index_select(0, rows),
            None => answers.shallow_clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::Grid;

    fn line(length: usize) -> Layout {
        Layout::single(Grid::line(length))
    }

    fn numbers(tensor: &Tensor) -> Vec<i64> {
        Vec::try_from(tensor.to_kind(Kind::Int64).view([-1])).unwrap()
    }

    /// Ledger 081: ids_shuffle and mask of the worked noise.
    #[test]
    fn keep_lowest_is_that_of_mae() {
        let plan = Plan::keep_lowest(&[0.7, 0.1, 0.9, 0.3, 0.5, 0.2, 0.8, 0.4], 2);
        assert_eq!(plan.seen, [1, 5]);
        assert_eq!(plan.mask(8).map_to_int(), [1, 0, 1, 1, 1, 0, 1, 1]);
        let all = Plan::keep_lowest(&[0.7, 0.1, 0.9, 0.3, 0.5, 0.2, 0.8, 0.4], 8);
        assert_eq!(all.seen, [1, 5, 3, 7, 4, 0, 6, 2]);
        assert_eq!(Plan::keep_lowest(&[0.5; 4], 2).seen, [0, 1]); // ties: the lower position
    }

    trait MapToInt {
        fn map_to_int(&self) -> Vec<u8>;
    }
    impl MapToInt for Vec<bool> {
        fn map_to_int(&self) -> Vec<u8> {
            self.iter().map(|hidden| u8::from(*hidden)).collect()
        }
    }

    #[test]
    fn filled_brings_back_what_is_not_dropped() {
        let plan = Plan::hide(&line(6), vec![4, 1, 2]).unwrap();
        assert_eq!((plan.seen.as_slice(), plan.hidden.as_slice()), (&[0, 3, 5][..], &[1, 2, 4][..]));
        let plan = plan.filled(|p| if p == 2 { Fill::Drop } else { Fill::Value(i64::from(p) * 10) });
        assert_eq!(plan.seen, [0, 1, 3, 4, 5]);
        assert_eq!(plan.fill, [Fill::Value(10), Fill::Drop, Fill::Value(40)]);
        plan.check(&line(6)).unwrap();
    }

    #[test]
    fn impossible_plans_are_refused() {
        assert!(Plan::hide(&line(3), vec![3]).is_err());
        assert!(Plan::hide(&line(3), vec![1, 1]).is_err());
        assert!(Plan::hide(&line(3).with_fixed(vec![0]).unwrap(), vec![0]).is_err());
        let mut plan = Plan::hide(&line(3), vec![1]).unwrap();
        plan.scored = vec![2];
        assert!(plan.check(&line(3)).is_err());
    }

    #[test]
    fn ragged_and_padded_agree() {
        let rows = [&[2u32, 0][..], &[], &[1, 2, 3]];
        let positions = Positions::collate(rows, 4);
        assert_eq!(positions.flat, [2, 0, 9, 10, 11]);
        assert_eq!(positions.offsets, [0, 2, 2, 5]);
        let ids = positions.to_device(Device::Cpu);
        assert_eq!(numbers(&ids.padded), [2, 0, 0, 0, 0, 0, 1, 2, 3]);
        assert_eq!(numbers(ids.valid.as_ref().unwrap()), [1, 1, 0, 0, 0, 0, 1, 1, 1]);
        assert_eq!(numbers(&ids.slots), [0, 1, 6, 7, 8]);
        let all = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([3, 4, 2]);
        assert_eq!(ids.take_flat(&all), ids.unpad(&ids.take(&all)));
    }

    /// Libtorch once could not infer the size of a table's rows where no position was left.
    #[test]
    fn looking_up_nothing_gives_nothing() {
        let ids = Positions::collate([&[][..], &[]], 4).to_device(Device::Cpu);
        assert_eq!(ids.look_up(&Tensor::zeros([4, 3], (Kind::Float, Device::Cpu))).size(), [2, 0, 3]);
        assert_eq!(ids.take(&Tensor::zeros([2, 4, 3], (Kind::Float, Device::Cpu))).size(), [2, 0, 3]);
    }

    #[test]
    fn groups_and_partly_scored_answers_line_up() {
        // Two groups a row; row 0 scores one of each, row 1 only the second group.
        let plan = |queried: [&[u32]; 2], scored: &[u32]| Plan {
            queried: queried.map(<[u32]>::to_vec).to_vec(),
            scored: scored.to_vec(),
            ..Plan::nothing_hidden(&line(6))
        };
        let plans = [plan([&[0, 1], &[2]], &[1, 2]), plan([&[3], &[4, 5]], &[4, 5])];
        plans.iter().for_each(|plan| plan.check(&line(6)).unwrap());
        let device = DevicePlan::collate(&[&plans[0], &plans[1]], 6, Device::Cpu).unwrap();
        // Answers: group 0: row 0 (0, 1), row 1 (3); group 1: row 0 (2), row 1 (4, 5).
        let answers = Tensor::from_slice(&[0i64, 1, 9, 2, 10, 11]).view([6, 1]);
        assert_eq!(numbers(&device.scored_of(&answers)), [1, 2, 10, 11]);
        assert_eq!(numbers(&device.scored.flat), [1, 2, 10, 11]);
    }

    /// Rows of which nothing, some and all is hidden, settled on the device as on the host.
    #[test]
    fn a_ragged_plan_is_settled_like_the_collated_one() {
        let plans = [vec![], vec![3, 1], vec![0, 1, 2, 3]].map(|hidden| Plan::hide(&line(4), hidden).unwrap());
        let host = DevicePlan::collate(&[&plans[0], &plans[1], &plans[2]], 4, Device::Cpu).unwrap();
        let device = DevicePlan::hiding(host.hidden.copy(), &[0, 2, 4]);
        for (a, b) in [(&device.seen, &host.seen), (&device.scored, &host.scored)] {
            assert_eq!((&a.padded, &a.valid, &a.flat, &a.slots), (&b.padded, &b.valid, &b.flat, &b.slots));
        }
        let filled: Vec<Plan> = plans.iter().map(|plan| plan.clone().filled(|_| Fill::MaskToken)).collect();
        let host = DevicePlan::collate(&filled.iter().collect::<Vec<_>>(), 4, Device::Cpu).unwrap();
        let device = device.with_mask_tokens();
        assert_eq!(device.mask_tokens, host.mask_tokens);
        let sequence = Tensor::rand([3, 4, 2], (Kind::Float, Device::Cpu));
        assert_eq!(device.queried[0].take(&sequence), host.queried[0].take(&sequence));
    }

    #[test]
    fn a_settled_plan_equals_the_collated_one() {
        let plans = [Plan::keep_lowest(&[0.3, 0.1, 0.2, 0.4], 2), Plan::keep_lowest(&[0.1, 0.2, 0.3, 0.0], 2)];
        let plans = plans.map(|plan| Plan::from_mask(&line(4), &plan.mask(4)).unwrap());
        let host = DevicePlan::collate(&[&plans[0], &plans[1]], 4, Device::Cpu).unwrap();
        let device = DevicePlan::hiding(host.hidden.copy(), &[2, 2]);
        assert_eq!(device.hidden, host.hidden);
        assert_eq!(device.seen.padded, host.seen.padded);
        assert_eq!(numbers(&device.scored.flat), numbers(&host.scored.flat));
        let tokens = device.with_mask_tokens();
        let filled: Vec<Plan> = plans.iter().map(|plan| plan.clone().filled(|_| Fill::MaskToken)).collect();
        let host = DevicePlan::collate(&[&filled[0], &filled[1]], 4, Device::Cpu).unwrap();
        assert_eq!(tokens.mask_tokens, host.mask_tokens);
        assert_eq!(tokens.seen.padded, host.seen.padded);
        let sequence = Tensor::rand([2, 4, 3], (Kind::Float, Device::Cpu));
        assert_eq!(tokens.queried[0].take(&sequence), host.queried[0].take(&sequence));
    }
}
