//! k-means: centres for vectors, and the nearest centre of a vector.

use tch::{Kind, Tensor};

use crate::stream::Stream;
use crate::{Error, Result};

/// Rows that are compared with all centres at once.
const ROWS: i64 = 1 << 14;

/// Cluster centres.
#[derive(Debug)]
pub struct Clusters {
    /// [K, D], float32, on the CPU.
    pub centres: Tensor,
    /// |c|^2 of each, `[K]`.
    norms: Tensor,
}

impl Clusters {
    /// Clusters of these centres, [K, D].
    ///
    /// # Errors
    /// No centre, or another number of dimensions.
    pub fn new(centres: &Tensor) -> Result<Self> {
        let size = centres.size();
        if size.len() != 2 || size.contains(&0) {
            return Err(Error::shape("centres", "[clusters, numbers]", &size));
        }
        let centres = centres.to_kind(Kind::Float).to_device(tch::Device::Cpu).contiguous();
        let norms = centres.square().sum_dim_intlist(1, false, Kind::Float);
        Ok(Self { centres, norms })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.centres.size()[0] as usize
    }

    /// Whether there is none, which [`Clusters::new`] refuses.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The nearest centre of each row of `x` [N, D], by the least of |c|^2 - 2 x c (the first of several), and its
    /// squared distance: `[N]` and `[N]`.
    ///
    /// # Errors
    /// Rows of another width.
    pub fn nearest(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (wide, size) = (self.centres.size()[1], x.size());
        if size.len() != 2 || size[1] != wide {
            return Err(Error::shape("features", format!("[rows, {wide}], as the centres have"), &size));
        }
        let (mut ids, mut distances) = (Vec::new(), Vec::new());
        for start in (0..size[0]).step_by(ROWS as usize) {
            let part = x.narrow(0, start, ROWS.min(size[0] - start)).to_kind(Kind::Float);
            let score = &self.norms - part.matmul(&self.centres.tr()) * 2.0; // [n, K]
            let (least, id) = score.min_dim(1, false);
            let own = part.square().sum_dim_intlist(1, false, Kind::Float);
            distances.push((least + own).clamp_min(0.0));
            ids.push(id);
        }
        if ids.is_empty() {
            let none = |kind| Tensor::zeros([0], (kind, tch::Device::Cpu));
            return Ok((none(Kind::Int64), none(Kind::Float)));
        }
        Ok((Tensor::f_cat(&ids, 0)?, Tensor::f_cat(&distances, 0)?))
    }
}

/// Clusters of what earlier clusters leave over: each level's nearest centre is subtracted before the next level's.
#[derive(Debug)]
pub struct Residual {
    levels: Vec<Clusters>,
}

impl Residual {
    /// From centres [Q, K, D].
    ///
    /// # Errors
    /// Another number of dimensions.
    pub fn new(centres: &Tensor) -> Result<Self> {
        let size = centres.size();
        if size.len() != 3 || size.contains(&0) {
            return Err(Error::shape("centres", "[levels, clusters, numbers]", &size));
        }
        Ok(Self { levels: (0..size[0]).map(|level| Clusters::new(&centres.get(level))).collect::<Result<_>>()? })
    }

    /// Clusters of each level.
    #[must_use]
    pub fn sizes(&self) -> Vec<usize> {
        self.levels.iter().map(Clusters::len).collect()
    }

    /// The nearest centres of each row of `x` [N, D], a tensor `[N]` a level.
    ///
    /// # Errors
    /// Rows of another width.
    pub fn nearest(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let mut left = x.to_kind(Kind::Float);
        let mut all = Vec::new();
        for level in &self.levels {
            let (ids, _) = level.nearest(&left)?;
            left -= level.centres.index_select(0, &ids);
            all.push(ids);
        }
        Ok(all)
    }
}

/// How centres are found.
#[derive(Clone, Debug)]
pub struct Kmeans {
    /// Centres.
    pub clusters: usize,
    /// Passes over the rows at most: Lloyd's steps, or mini-batch epochs.
    pub rounds: u64,
    /// Rows of a mini-batch; none = Lloyd's steps over all rows.
    pub batch: Option<usize>,
    /// Starts, of which that with the least inertia is kept.
    pub tries: u64,
}

/// Centres that were found.
#[derive(Debug)]
pub struct Fitted {
    /// The centres.
    pub clusters: Clusters,
    /// Sum of the squared distances of the rows to their centres.
    pub inertia: f64,
    /// Rows of each cluster.
    pub counts: Vec<u64>,
    /// Passes that were made.
    pub rounds: u64,
    /// Clusters that lost all rows and were put on the row farthest from its centre.
    pub reseeded: u64,
}

impl Kmeans {
    /// Finds centres of the rows of `x` [N, D]. `tell` hears of each pass: its number and the inertia before it.
    ///
    /// # Errors
    /// Fewer rows than clusters, numbers that aren't finite.
    pub fn fit(&self, x: &Tensor, stream: &Stream, tell: &mut dyn FnMut(u64, f64)) -> Result<Fitted> {
        let (rows, _) = x.size2()?;
        if (rows as usize) < self.clusters || self.clusters == 0 {
            let problem = format!("{} clusters of {rows} rows: give at most as many clusters as rows", self.clusters);
            return Err(Error::value("clusters", problem));
        }
        if !bool::try_from(x.isfinite().all())? {
            return Err(Error::value("features", "hold numbers that are not finite"));
        }
        let x = x.to_kind(Kind::Float).contiguous();
        let mut best: Option<Fitted> = None;
        for attempt in 0..self.tries.max(1) {
            let mut stream = stream.branch(attempt);
            let start = self.seed(&x, &mut stream)?;
            let fitted = match self.batch {
                None => self.lloyd(&x, start, tell)?,
                Some(batch) => self.batches(&x, start, batch.max(1), &mut stream, tell)?,
            };
            if best.as_ref().is_none_or(|best| fitted.inertia < best.inertia) {
                best = Some(fitted);
            }
        }
        best.ok_or_else(|| Error::Defect("k-means without an attempt".to_owned()))
    }

    /// Greedy k-means++: each next centre is the best of 2 + ln K rows drawn with probability proportional to the
    /// squared distance from the centres so far.
    fn seed(&self, x: &Tensor, stream: &mut Stream) -> Result<Clusters> {
        let rows = x.size()[0] as u64;
        let candidates = 2 + (self.clusters as f64).ln() as usize;
        let own = x.square().sum_dim_intlist(1, true, Kind::Float); // [N, 1]
        let to = |ids: &[i64]| -> Tensor {
            let centres = x.index_select(0, &Tensor::from_slice(ids)); // [t, D]
            let norms = centres.square().sum_dim_intlist(1, false, Kind::Float);
            (&own + norms - x.matmul(&centres.tr()) * 2.0).clamp_min(0.0).tr() // [t, N]
        };
        let mut chosen = vec![stream.below(rows) as i64];
        let mut near = to(&chosen).get(0); // [N]
        while chosen.len() < self.clusters {
            let weights = Vec::<f32>::try_from(&near)?;
            let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            let draws: Vec<i64> = (0..candidates).map(|_| draw(&weights, total, stream)).collect();
            let nearer = to(&draws).minimum(&near); // [t, N]
            let sums = Vec::<f64>::try_from(nearer.sum_dim_intlist(1, false, Kind::Double))?;
            let best = (0..draws.len()).fold(0, |best, i| if sums[i] < sums[best] { i } else { best });
            chosen.push(draws[best]);
            near = nearer.get(best as i64);
        }
        Clusters::new(&x.index_select(0, &Tensor::from_slice(&chosen)))
    }

    fn lloyd(&self, x: &Tensor, mut clusters: Clusters, tell: &mut dyn FnMut(u64, f64)) -> Result<Fitted> {
        let values = Vec::<f32>::try_from(x.view([-1]))?;
        let mut last: Option<Vec<i64>> = None;
        let (mut reseeded, mut rounds) = (0, 0);
        loop {
            let (ids, distances) = clusters.nearest(x)?;
            let (ids, distances) = (Vec::<i64>::try_from(&ids)?, Vec::<f32>::try_from(&distances)?);
            let inertia = distances.iter().map(|d| f64::from(*d)).sum();
            tell(rounds, inertia);
            if rounds == self.rounds || last.as_ref() == Some(&ids) {
                let counts = counts(&ids, self.clusters);
                return Ok(Fitted { clusters, inertia, counts, rounds, reseeded });
            }
            let (centres, lost) = means(&values, &ids, &distances, &clusters)?;
            reseeded += lost;
            clusters = centres;
            last = Some(ids);
            rounds += 1;
        }
    }

    /// Sculley's mini-batches: a centre is the mean of all rows that any batch gave it.
    fn batches(
        &self,
        x: &Tensor,
        mut clusters: Clusters,
        batch: usize,
        stream: &mut Stream,
        tell: &mut dyn FnMut(u64, f64),
    ) -> Result<Fitted> {
        let rows = x.size()[0] as usize;
        let width = x.size()[1] as usize;
        let mut weight = vec![0f64; self.clusters];
        for round in 0..self.rounds {
            let order: Vec<i64> = stream.permutation(rows).into_iter().map(i64::from).collect();
            let mut inertia = 0.0;
            for part in order.chunks(batch) {
                let part = x.index_select(0, &Tensor::from_slice(part));
                let (ids, distances) = clusters.nearest(&part)?;
                inertia += f64::try_from(distances.sum(Kind::Double))?;
                let (ids, values) = (Vec::<i64>::try_from(&ids)?, Vec::<f32>::try_from(part.reshape([-1]))?);
                let mut sums = vec![0f64; self.clusters * width];
                add(&mut sums, &values, &ids, width);
                let mut centres = Vec::<f32>::try_from(clusters.centres.reshape([-1]))?;
                for (k, new) in counts(&ids, self.clusters).into_iter().enumerate().filter(|(_, new)| *new > 0) {
                    let all = weight[k] + new as f64;
                    for (centre, sum) in
                        centres[k * width..(k + 1) * width].iter_mut().zip(&sums[k * width..(k + 1) * width])
                    {
                        *centre = ((f64::from(*centre) * weight[k] + sum) / all) as f32;
                    }
                    weight[k] = all;
                }
                clusters = Clusters::new(&Tensor::from_slice(&centres).view([self.clusters as i64, width as i64]))?;
            }
            tell(round, inertia);
        }
        let (ids, distances) = clusters.nearest(x)?;
        let inertia = f64::try_from(distances.sum(Kind::Double))?;
        let counts = counts(&Vec::<i64>::try_from(&ids)?, self.clusters);
        Ok(Fitted { clusters, inertia, counts, rounds: self.rounds, reseeded: 0 })
    }
}

/// A row, with probability proportional to its weight; any row where all weights are 0.
fn draw(weights: &[f32], total: f64, stream: &mut Stream) -> i64 {
    if total <= 0.0 {
        return stream.below(weights.len() as u64) as i64;
    }
    let mut left = stream.uniform() * total;
    let mut last = 0;
    for (row, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        last = row;
        left -= f64::from(*weight);
        if left < 0.0 {
            break;
        }
    }
    last as i64
}

fn counts(ids: &[i64], clusters: usize) -> Vec<u64> {
    let mut counts = vec![0; clusters];
    ids.iter().for_each(|id| counts[*id as usize] += 1);
    counts
}

fn add(sums: &mut [f64], values: &[f32], ids: &[i64], width: usize) {
    for (row, id) in values.chunks_exact(width).zip(ids) {
        let sum = &mut sums[*id as usize * width..(*id as usize + 1) * width];
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
}

/// The mean of each cluster's rows; a cluster without rows takes the row that lies farthest from its centre, each the
/// next farther one. Gives how many had none.
fn means(values: &[f32], ids: &[i64], distances: &[f32], old: &Clusters) -> Result<(Clusters, u64)> {
    let (clusters, width) = (old.len(), old.centres.size()[1] as usize);
    let mut sums = vec![0f64; clusters * width];
    add(&mut sums, values, ids, width);
    let counts = counts(ids, clusters);
    let empty: Vec<usize> = (0..clusters).filter(|k| counts[*k] == 0).collect();
    let mut far: Vec<usize> = Vec::new();
    if !empty.is_empty() {
        far = (0..ids.len()).collect();
        far.sort_by(|a, b| distances[*b].total_cmp(&distances[*a]).then(a.cmp(b)));
    }
    let mut centres: Vec<f32> = Vec::with_capacity(sums.len());
    for (sum, count) in sums.chunks_exact(width).zip(&counts) {
        centres.extend(sum.iter().map(|sum| (sum / (*count).max(1) as f64) as f32));
    }
    for (k, row) in empty.iter().zip(&far) {
        centres[k * width..(k + 1) * width].copy_from_slice(&values[row * width..(row + 1) * width]);
    }
    let centres = Tensor::from_slice(&centres).view([clusters as i64, width as i64]);
    Ok((Clusters::new(&centres)?, empty.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matrix(values: &[f32], width: i64) -> Tensor {
        Tensor::from_slice(values).view([-1, width])
    }

    fn lloyd(clusters: usize, rounds: u64) -> Kmeans {
        Kmeans { clusters, rounds, batch: None, tries: 1 }
    }

    fn floats(x: &Tensor) -> Vec<f32> {
        Vec::try_from(x.reshape([-1])).unwrap()
    }

    /// Worked by hand: 0, 1, 2 | 10, 11, 13 from the centres 0 and 1. Passes: {0} {1, ..} -> 0, 7.4; then {0, 1, 2}
    /// {10, 11, 13} -> 1, 11.333; inertia 2 + 4.667. The same by scikit-learn 1.9:
    /// KMeans(2, init=[[0],[1]], n_init=1).fit([[0],[1],[2],[10],[11],[13]]).inertia_ = 6.6667, centres 1, 11.3333.
    #[test]
    fn lloyds_steps_by_hand() {
        let x = matrix(&[0., 1., 2., 10., 11., 13.], 1);
        let start = Clusters::new(&matrix(&[0., 1.], 1)).unwrap();
        let mut told = Vec::new();
        let fitted = lloyd(2, 20).lloyd(&x, start, &mut |_, inertia| told.push(inertia)).unwrap();
        let centres = floats(&fitted.clusters.centres);
        assert!((centres[0] - 1.0).abs() < 1e-6 && (centres[1] - 11.333_333).abs() < 1e-5, "{centres:?}");
        assert!((fitted.inertia - 20.0 / 3.0).abs() < 1e-4, "{}", fitted.inertia);
        assert_eq!((fitted.counts, fitted.rounds, fitted.reseeded), (vec![3, 3], 2, 0));
        // 0 + 0 + 1 + 81 + 100 + 144 at the start; 0 + 1 + 4 + 6.76 + 12.96 + 31.36 after the first pass.
        assert!((told[0] - 326.0).abs() < 1e-3 && (told[1] - 56.08).abs() < 1e-3, "{told:?}");
    }

    /// A cluster that has no row gets the one farthest from its centre.
    #[test]
    fn an_empty_cluster_begins_anew() {
        let x = matrix(&[0., 0., 0., 8.], 1);
        let start = Clusters::new(&matrix(&[0., 100.], 1)).unwrap();
        let fitted = lloyd(2, 10).lloyd(&x, start, &mut |_, _| {}).unwrap();
        assert_eq!(floats(&fitted.clusters.centres), [0., 8.]);
        assert_eq!((fitted.reseeded, fitted.inertia, fitted.counts), (1, 0.0, vec![3, 1]));
    }

    /// Two batches by hand: centres 0 and 10, rows 1, 9 then 2, 8: each centre is the mean of what it was given.
    #[test]
    fn mini_batches_are_running_means() {
        let x = matrix(&[1., 2., 8., 9.], 1);
        let start = Clusters::new(&matrix(&[0., 10.], 1)).unwrap();
        let plan = Kmeans { clusters: 2, rounds: 1, batch: Some(2), tries: 1 };
        let fitted = plan.batches(&x, start, 2, &mut Stream::new(3), &mut |_, _| {}).unwrap();
        let centres = floats(&fitted.clusters.centres);
        assert!((centres[0] - 1.5).abs() < 1e-6 && (centres[1] - 8.5).abs() < 1e-6, "{centres:?}");
        assert!((fitted.inertia - 1.0).abs() < 1e-5);
    }

    #[test]
    fn ties_go_to_the_first_and_widths_are_checked() {
        let clusters = Clusters::new(&matrix(&[1., 3., 1.], 1)).unwrap();
        let (ids, distances) = clusters.nearest(&matrix(&[2., 1., 3.], 1)).unwrap();
        assert_eq!(Vec::<i64>::try_from(ids).unwrap(), [0, 0, 1]);
        assert_eq!(floats(&distances), [1., 0., 0.]);
        assert!(clusters.nearest(&matrix(&[1., 2.], 2)).is_err());
        assert!(lloyd(3, 1).fit(&matrix(&[1., 2.], 1), &Stream::new(0), &mut |_, _| {}).is_err());
        assert!(lloyd(1, 1).fit(&matrix(&[1., f32::NAN], 1), &Stream::new(0), &mut |_, _| {}).is_err());
    }

    /// Ledger 023: one level is k-means; with centres that are means the squared residual never grows with levels.
    #[test]
    fn residual_levels() {
        let mut stream = Stream::new(4);
        let values: Vec<f32> = (0..400).map(|_| stream.normal() as f32).collect();
        let x = matrix(&values, 4);
        let (mut left, mut levels, mut before) = (x.shallow_clone(), Vec::new(), f64::INFINITY);
        for level in 0..3 {
            let fitted = lloyd(8, 30).fit(&left, &stream.branch(level), &mut |_, _| {}).unwrap();
            let (ids, _) = fitted.clusters.nearest(&left).unwrap();
            left -= fitted.clusters.centres.index_select(0, &ids);
            let size = f64::try_from(left.square().sum(Kind::Double)).unwrap();
            assert!(size <= before, "{size} {before}");
            before = size;
            levels.push(fitted.clusters.centres);
        }
        let residual = Residual::new(&Tensor::stack(&levels, 0)).unwrap();
        let first = Clusters::new(&levels[0]).unwrap().nearest(&x).unwrap().0;
        let all = residual.nearest(&x).unwrap();
        assert_eq!((residual.sizes(), &all[0]), (vec![8; 3], &first));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        /// Well apart, the clusters are found, whatever the seed; the inertia never grows from pass to pass.
        #[test]
        fn clusters_far_apart_are_found(seed in 0u64..1000, clusters in 2usize..6) {
            let mut stream = Stream::new(seed);
            let mut values = Vec::new();
            for row in 0..40 * clusters {
                let middle = (row % clusters) as f64 * 100.0;
                values.extend([middle + stream.normal(), stream.normal()].map(|x| x as f32));
            }
            let x = matrix(&values, 2);
            let mut told = Vec::new();
            let plan = Kmeans { tries: 2, ..lloyd(clusters, 50) };
            let fitted = plan.fit(&x, &stream, &mut |round, inertia| told.push((round, inertia))).unwrap();
            prop_assert!(fitted.counts.iter().all(|count| *count == 40), "{:?}", fitted.counts);
            let again = plan.fit(&x, &stream, &mut |_, _| {}).unwrap();
            prop_assert_eq!(fitted.clusters.centres, again.clusters.centres);
            for pair in told.windows(2).filter(|pair| pair[1].0 > 0) {
                prop_assert!(pair[1].1 <= pair[0].1 * (1.0 + 1e-6));
            }
        }
    }
}
