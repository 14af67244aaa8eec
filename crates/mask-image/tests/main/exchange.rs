//! Models in and out: `convert`, `export`, and `init`.

use std::path::Path;

use mask_core::{Named, hub, store};
use mask_image::REGISTER;
use tch::{Device, Tensor};

use crate::common::{MAE, RUN, TINY, done, losses, mask, pretrain, pth, refused, root, same_run, say, set};

const GOLDEN: &str = "crates/mask-image/tests/golden";

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The Hub's names of a vision transformer in the way of timm, which the papers' repositories have; query, key and value
/// joined.
fn as_official(theirs: &Named<Tensor>) -> Named<Tensor> {
    let renamed = |name: &str| {
        let bare = ["vit.", "beit."].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        let pairs = [
            ("embeddings.cls_token", "cls_token"),
            ("embeddings.mask_token", "mask_token"),
            ("embeddings.position_embeddings", "pos_embed"),
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("encoder.layer.", "blocks."),
            ("decoder.decoder_layers.", "decoder_blocks."),
            ("decoder.", ""),
            ("attention.attention.relative_position_bias.", "attn."),
            ("attention.attention.query.bias", "attn.q_bias"),
            ("attention.attention.value.bias", "attn.v_bias"),
            ("attention.output.dense", "attn.proj"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("layernorm", "norm"),
            ("lambda_", "gamma_"),
        ];
        pairs.iter().fold(bare.to_owned(), |name, (from, to)| name.replace(from, to))
    };
    let mut ours = Named::new();
    for (name, tensor) in theirs {
        let joined = ["query", "key", "value"].iter().find_map(|which| {
            let (layer, part) = name.split_once(&format!(".attention.attention.{which}."))?;
            theirs.contains_key(&format!("{layer}.attention.attention.key.{part}")).then_some((layer, part))
        });
        let Some((layer, part)) = joined else {
            ours.insert(renamed(name), tensor.shallow_clone());
            continue;
        };
        let parts =
            ["query", "key", "value"].map(|which| &theirs[&format!("{layer}.attention.attention.{which}.{part}")]);
        ours.insert(format!("{}.attn.qkv.{part}", renamed(layer)), Tensor::cat(&parts, 0));
    }
    ours
}

/// Names with something in front.
fn below(prefix: &str, tensors: &Named<Tensor>) -> Named<Tensor> {
    tensors.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.shallow_clone())).collect()
}

const HEADS: [&str; 4] = ["--set", "num_attention_heads=4", "--set", "decoder_num_attention_heads=4"];

/// Acceptance: the golden weights in the official layout, converted, give the golden logits.
#[test]
fn an_official_mae_gives_the_golden_logits() {
    let temp = tempfile::tempdir().expect("a folder");
    let golden = root().join(GOLDEN).join("vit_mae");
    let weights = store::read(&golden.join("model.safetensors")).expect("weights").tensors;
    let (file, folder) = (temp.path().join("mae.pth"), temp.path().join("hf"));
    let official = as_official(&weights);
    pth::write(&file, &[("model", below("", &official))]);
    let mut command = mask(["convert", text(&file), "--hf", text(&folder)]);
    command.args(HEADS).args(["--set", "layer_norm_eps=1e-12", "--set", "norm_pix_loss=true"]);
    let said = done(&mut command);
    for line in [
        "layout     MAE of facebookresearch/mae, weights below 'model'",
        &format!("matched    {}", official.len()),
        "missing    none",
        "unused     none",
        "blocks.N.attn.qkv.weight [144, 48] -> [48, 48] + [48, 48] + [48, 48] (3 times)",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    let converted = store::read(&folder.join("model.safetensors")).expect("weights").tensors;
    assert!(converted.keys().eq(weights.keys()));
    assert!(converted.iter().all(|(name, tensor)| *tensor == weights[name]));
    let model = hub::open(REGISTER.families, &folder, Device::Cpu).expect("a model");
    let io = store::read(&golden.join("io.safetensors")).expect("inputs and outputs").tensors;
    let outputs = model.forward(&io).expect("outputs");
    for name in ["logits", "loss", "latent"] {
        let error = (&outputs[name] - &io[name]).abs().max().double_value(&[]);
        assert!(error <= 1e-4, "{name} differs by {error}");
    }
}

/// Golden weights in the layouts of BEiT, SimMIM and I-JEPA come back as they were.
#[test]
fn the_other_layouts_are_told_apart() {
    let temp = tempfile::tempdir().expect("a folder");
    let convert = |name: &str, parts: &[(&str, Named<Tensor>)], more: &[&str]| {
        let (file, folder) = (temp.path().join(format!("{name}.pth")), temp.path().join(name));
        pth::write(&file, parts);
        let said = done(mask(["convert", text(&file), "--hf", text(&folder)]).args(more));
        assert!(said.contains("missing    none"), "{said}");
        (said, store::read(&folder.join("model.safetensors")).expect("weights").tensors)
    };
    let golden =
        |name: &str| store::read(&root().join(GOLDEN).join(name).join("model.safetensors")).expect("weights").tensors;
    let same = |found: &Named<Tensor>, wanted: &Named<Tensor>| {
        assert!(found.keys().eq(wanted.keys()), "{:?}\n{:?}", found.keys(), wanted.keys());
        assert!(found.iter().all(|(name, tensor)| *tensor == wanted[name]));
    };
    let beit = golden("beit");
    let index = ("blocks.0.attn.relative_position_index".to_owned(), Tensor::from_slice(&[0f32]));
    let official: Named<Tensor> = as_official(&beit).into_iter().chain([index]).collect();
    let (said, found) = convert("beit", &[("model", below("", &official))], &["--set", "layer_norm_eps=1e-12"]);
    assert!(said.contains("layout     BEiT of microsoft/unilm") && said.contains("unused     none"), "{said}");
    same(&found, &beit);

    let mut parts = below("encoder.", &official);
    let head = Tensor::zeros([192, 48, 1, 1], (tch::Kind::Float, Device::Cpu));
    parts.insert("decoder.0.weight".to_owned(), head);
    parts.retain(|name, _| !name.contains("lm_head"));
    let (said, found) = convert("simmim", &[("model", parts)], &[]);
    assert!(said.contains("layout     SimMIM's ViT of microsoft/SimMIM"), "{said}");
    assert!(said.contains("unused     model.decoder.N.weight\n"), "{said}");
    // The bare model: no prefix, and the norm is its own.
    let bare = beit.iter().filter(|(name, _)| !name.starts_with("lm_head"));
    same(&found, &bare.map(|(name, t)| (name.replace("beit.", ""), t.shallow_clone())).collect());

    let ijepa = golden("ijepa");
    let official = as_official(&ijepa);
    let zeros = official.iter().map(|(name, tensor)| (name.clone(), tensor.zeros_like())).collect();
    let parts = [("encoder", below("module.", &zeros)), ("target_encoder", below("module.", &official))];
    let heads = ["--set", "num_attention_heads=3", "--set", "layer_norm_eps=1e-12"];
    let (said, found) = convert("ijepa", &parts, &heads);
    assert!(said.contains("I-JEPA of facebookresearch/ijepa, weights below 'target_encoder.module'"), "{said}");
    same(&found, &ijepa);
    let (said, found) = convert("ijepa-encoder", &parts, &[&heads[..], &["--part", "encoder"]].concat());
    assert!(said.contains("weights below 'encoder.module'"), "{said}");
    same(&found, &ijepa.iter().map(|(name, tensor)| (name.clone(), tensor.zeros_like())).collect());
}

#[test]
fn convert_asks_for_what_weights_do_not_tell() {
    let temp = tempfile::tempdir().expect("a folder");
    let weights = store::read(&root().join(GOLDEN).join("vit_mae/model.safetensors")).expect("weights").tensors;
    let (file, folder) = (temp.path().join("mae.pth"), temp.path().join("hf"));
    pth::write(&file, &[("model", as_official(&weights))]);
    let convert = || mask(["convert", text(&file), "--hf", text(&folder)]);
    let line = refused(&mut convert());
    assert!(line.contains("no paper has a width of 48: give num_attention_heads by --set"), "{line}");
    let line = refused(convert().args(HEADS).args(["--set", "hidden=3"]));
    assert!(line.contains("--set: vit_mae has no field hidden; it has hidden_size,"), "{line}");
    let line = refused(convert().args(HEADS).args(["--part", "other"]));
    assert!(line.contains("--part: takes one of model with this file"), "{line}");
    assert!(!folder.exists());
    done(convert().args(HEADS));
    assert!(refused(convert().args(HEADS)).contains("holds a model already"));
}

/// The encoder's features and every parameter are the run's own, bit for bit.
#[test]
fn an_exported_run_is_read_as_it_was() {
    let temp = tempfile::tempdir().expect("a folder");
    let run = text(&RUN);
    let folder = temp.path().join("hf");
    let said = done(&mut mask(["export", run, "--hf", text(&folder)]));
    assert!(said.contains(": vit_mae, the weights of step 4") && !said.contains("no place"), "{said}");
    let images = root().join("datasets/samples/photographs");
    let embed = |from: &[&str], name: &str| {
        let out = temp.path().join(name);
        done(mask(["embed", "--data", text(&images), "--out", text(&out)]).args(from));
        store::read(&out).expect("features").tensors.remove("features").expect("features")
    };
    assert!(embed(&[run], "a") == embed(&["--hf", text(&folder)], "b"));
    let model = hub::open(REGISTER.families, &folder, Device::Cpu).expect("a model");
    let stored = store::read(&RUN.join("checkpoints/last.safetensors")).expect("a checkpoint").tensors;
    let mut compared = 0;
    model.parameters().each(|parameter| {
        assert!(parameter.tensor == stored[&format!("model.{}", parameter.name)], "{}", parameter.name);
        compared += 1;
    });
    assert_eq!(compared, stored.keys().filter(|name| name.starts_with("model.")).count());
    let plain = temp.path().join("plain");
    let said = done(&mut mask(["export", run, "--encoder", "--hf", text(&plain)]));
    assert!(said.contains(": vit, the weights") && said.contains("vit has no place for"), "{said}");
    assert!(refused(&mut mask(["export", run, "--hf", text(&plain)])).contains("holds a model already"));
}

#[test]
fn a_simmim_run_becomes_beit() {
    let temp = tempfile::tempdir().expect("a folder");
    let (run, folder) = (temp.path().join("run"), temp.path().join("hf"));
    let train = |run: &Path, more: &[&str]| {
        let sets = ["train.steps=1", "train.schedule.warmup_steps=0", "data.batch.size=4", "method.encoder.depth=1"];
        let mut command = pretrain("experiments/image/simmim.yaml", run, &sets);
        set(&mut command, &["evaluate=[]"]);
        set(&mut command, more);
        done(&mut command);
    };
    train(&run, &[]);
    let said = done(&mut mask(["export", text(&run), "--hf", text(&folder)]));
    let wanted = "beit has no place for 2 of our parameters: predictor.weight, predictor.bias";
    assert!(said.contains(": beit, the weights of step 1") && said.contains(wanted), "{said}");
    let model = hub::open(REGISTER.families, &folder, Device::Cpu).expect("a model");
    let stored = store::read(&run.join("checkpoints/last.safetensors")).expect("a checkpoint").tensors;
    model.parameters().each(|parameter| {
        assert!(parameter.tensor == stored[&format!("model.{}", parameter.name)], "{}", parameter.name);
    });
    // What stands against an architecture is named.
    let bare = temp.path().join("bare");
    train(&bare, &["method.encoder.class_token=false"]);
    let line = refused(&mut mask(["export", text(&bare), "--hf", text(&temp.path().join("none"))]));
    assert!(line.starts_with("error: encoder.class_token: ") && line.contains("no architecture"), "{line}");
    // With ViT's options it is what transformers has for masked images, head and all.
    let (plain, other) = (temp.path().join("plain"), temp.path().join("vit"));
    let vit = ["positions=learned", "relative_bias=none", "qkv_bias=full", "layer_scale=null"];
    train(&plain, &vit.map(|set| format!("method.encoder.{set}")).each_ref().map(String::as_str));
    let said = done(&mut mask(["export", text(&plain), "--hf", text(&other)]));
    assert!(said.contains(": vit, the weights of step 1") && !said.contains("no place"), "{said}");
}

/// A classifier on the mean is `beit`, one on the class token `vit`; both come back with every parameter.
#[test]
fn a_classifier_goes_out_and_comes_in() {
    let temp = tempfile::tempdir().expect("a folder");
    for (pool, kind, unlike) in [("tokens", "beit", "encoder.block.0.attention.qkv.bias"), ("class", "vit", "none")] {
        let (run, folder) = (temp.path().join(pool), temp.path().join(kind));
        let sets = ["train.steps=1", "train.schedule.warmup_steps=0", "data.batch.size=4", "method.encoder.depth=1"];
        let mut command = pretrain("experiments/image/classify.yaml", &run, &sets);
        set(&mut command, &["evaluate=[]", &format!("method.head.pool={pool}")]);
        done(&mut command);
        let said = done(&mut mask(["export", text(&run), "--hf", text(&folder)]));
        assert!(said.contains(&format!(": {kind}, the weights of step 1")) && !said.contains("no place"), "{said}");
        let model = hub::open(REGISTER.families, &folder, Device::Cpu).expect("a model");
        let stored = store::read(&run.join("checkpoints/last.safetensors")).expect("a checkpoint").tensors;
        let mut compared = 0;
        model.parameters().each(|parameter| {
            // BEiT keeps biases of query and value apart, and none of the key; vit's classifier is no fine-tuning head.
            if let Some(own) = stored.get(&format!("model.{}", parameter.name)).filter(|_| parameter.name != unlike) {
                assert!(parameter.tensor == *own, "{}", parameter.name);
                compared += 1;
            }
        });
        assert!(compared >= 14, "{kind}: {compared}");
    }
}

/// A run and its export are the same beginning, and a resumed run needs neither.
#[test]
fn init_from_a_run_and_from_its_export() {
    let temp = tempfile::tempdir().expect("a folder");
    let at = |name: &str| temp.path().join(name);
    let hf = at("hf");
    done(&mut mask(["export", text(&RUN), "--hf", text(&hf)]));
    let train = |out: &str, init: &str| {
        let mut command = pretrain(MAE, &at(out), &TINY);
        let init = format!("init={init}");
        set(&mut command, &["data.augment.centre=0.875", "train.checkpoint_every=2", &init]);
        command
    };
    let by_run = format!("{{run: {}, strict: true}}", text(&RUN));
    let by_hf = format!("{{hf: {}}}", text(&hf));
    let said = say(&mut train("run", &by_run));
    assert!(said.code == Some(0) && said.err.contains("init from ") && said.err.contains(" matched\n"), "{}", said.err);
    done(&mut train("hf-run", &by_hf));
    let (first, second) = (losses(&at("run")), losses(&at("hf-run")));
    assert_eq!(first, second);
    assert_ne!(first, losses(&RUN));
    // It goes on where the first run ended: from a lower loss than at the start.
    assert!(first[0] < losses(&RUN)[0], "{first:?}");
    let recipe = std::fs::read_to_string(at("run").join("recipe.yaml")).expect("the recipe");
    assert!(recipe.contains("strict: true"), "{recipe}");

    done(train("cut", &by_hf).args(["--stop-at", "2"]));
    std::fs::remove_dir_all(&hf).expect("removed");
    done(train("cut", &by_hf).arg("--resume"));
    same_run(&at("cut"), &at("hf-run"), 4);
    let line = refused(&mut train("late", &by_hf));
    assert!(line.contains("is no folder; --hf takes one"), "{line}");
    assert!(!at("late").exists());
}

#[test]
fn init_fits_another_image_and_refuses_another_width() {
    let temp = tempfile::tempdir().expect("a folder");
    let by_run = format!("init={{run: {}}}", text(&RUN));
    let dry = |sets: &[&str]| {
        let mut command = mask(["pretrain", MAE, "--dry-run"]);
        set(&mut command, &TINY);
        set(&mut command, &["data.augment.centre=0.875", &by_run]);
        set(&mut command, sets);
        command
    };
    let said = say(&mut dry(&["method.encoder.image=[56, 56]"]));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("2 sine tables computed anew: encoder.positions ([7, 7] -> [14, 14])"), "{}", said.err);
    let said = say(&mut dry(&["method.encoder.image=[56, 28]", "method.encoder.positions=learned"]));
    assert!(said.err.contains("position tables interpolated: encoder.positions ([7, 7] -> [14, 7])"), "{}", said.err);
    let line = refused(&mut dry(&["method.encoder.width=32"]));
    assert!(line.contains("init.run: ") && line.contains(" has shape [64, 1, 4, 4] there"), "{line}");
    let line = refused(&mut dry(&["method.encoder.depth=2", "init.strict=true"]));
    assert!(line.contains("encoder.block.1.") && line.contains("strict asks for all"), "{line}");
    let line = refused(&mut dry(&["init.hf=x"]));
    assert!(line.contains("init: takes one of hf"), "{line}");
    drop(temp);
}
