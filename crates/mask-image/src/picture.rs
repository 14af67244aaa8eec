//! What a method hides, for eyes.

use mask_core::method::Sheet;
use mask_core::report::Panel;
use mask_core::{DevicePlan, Result, View};
use tch::{Kind, Tensor};

/// An image [C, H, W] as the model reads it, for eyes: the first three channels, or the first as grey. `colours` [2, C]
/// are the mean and deviation that the loader normalised by.
pub(crate) fn panel(image: &Tensor, colours: &Tensor) -> Result<Panel> {
    let (channels, height, width) = image.size3()?;
    let kept = if channels >= 3 { 3 } else { 1 };
    let [mean, sd] = [0, 1].map(|row| colours.get(row).slice(0, 0, kept, 1).view([kept, 1, 1]));
    let values = (image.slice(0, 0, kept, 1) * sd + mean) * 255.0;
    let bytes = values.round().clamp(0.0, 255.0).to_kind(Kind::Uint8).permute([1, 2, 0]).contiguous();
    Ok(Panel {
        width: width as u32,
        height: height as u32,
        channels: kept as u32,
        data: Vec::<u8>::try_from(bytes.view([-1]))?,
        caption: String::new(),
    })
}

/// The images of a view as the model reads them, a panel a sample.
///
/// # Errors
/// A view without images.
pub(crate) fn panels(view: &View) -> Result<Vec<Panel>> {
    let (pixels, colours) = (view.input("pixels")?, view.input("colours")?); // [B, C, H, W], [B, 2, C]
    (0..pixels.size()[0]).map(|row| panel(&pixels.get(row), &colours.get(row))).collect()
}

/// Titles of columns.
pub(crate) fn columns_of<const N: usize>(titles: [&str; N]) -> Vec<String> {
    titles.map(str::to_owned).to_vec()
}

/// A row of panels for each sample of images [B, C, H, W] as the model reads them.
pub(crate) fn rows_of(images: &[Tensor], view: &View) -> Result<Vec<Vec<Panel>>> {
    let colours = view.input("colours")?; // [B, 2, C]: mean and deviation of each channel
    let row = |row: i64| images.iter().map(|image| panel(&image.get(row), &colours.get(row))).collect();
    (0..colours.size()[0]).map(row).collect()
}

/// Each view, the scores of its positions [B, L] as brightness, and what is left of it where positions are hidden: a row
/// a sample, the views side by side.
///
/// # Errors
/// Shapes that don't fit.
pub(crate) fn guided_sheet(views: &[(&View, &Tensor, &DevicePlan)]) -> Result<Sheet> {
    let mut sheet = Sheet {
        caption: "The brightest patch has the highest score of its crop; the student sees a mask token at the grey \
                  patches. Some crops are left whole."
            .to_owned(),
        ..Sheet::default()
    };
    for (index, (view, scores, plan)) in views.iter().enumerate() {
        sheet.columns.extend(["crop", "score", "left to see"].map(|what| format!("{what} {}", index + 1)));
        let (pixels, colours) = (view.input("pixels")?, view.input("colours")?);
        let (rows, _, height, width) = pixels.size4()?;
        let [down, across] = view.layout.grid()?.as_plane()?.map(|side| side as i64);
        let spread = |x: &Tensor| {
            let plane = x.to_kind(Kind::Float).view([rows, 1, down, across]);
            plane.upsample_nearest2d([height, width], None, None)
        };
        let brightest = scores.amax([1i64].as_slice(), true).clamp_min(1e-30);
        let heat = spread(&(*scores / brightest));
        let seen = spread(&plan.hidden.logical_not());
        for row in 0..rows {
            // Scores and hidden places are drawn as values from 0 to 1 of a picture that was not normalised.
            let plain = Tensor::from_slice(&[0f32, 1.0]).view([2, 1]).to_device(pixels.device());
            let panels = [
                panel(&pixels.get(row), &colours.get(row))?,
                panel(&heat.get(row), &plain)?,
                panel(&(pixels.get(row) * seen.get(row)), &colours.get(row))?,
            ];
            match sheet.rows.get_mut(row as usize) {
                Some(line) => line.extend(panels),
                None => sheet.rows.push(panels.into()),
            }
        }
    }
    Ok(sheet)
}
