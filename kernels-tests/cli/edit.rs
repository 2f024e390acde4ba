//! `ancestral edit` with the pictures and masks people have, good and bad.

use super::{BEFORE, Folder, error_of, generate, golden, stderr};
use image::{DynamicImage, ImageEncoder, Rgb, RgbImage};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// A picture whose every pixel is another.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 5) as u8, (y * 7) as u8, (40 + x / 256 + (x + y) * 3) as u8])
    })
}

/// A white rectangle on black.
fn mask(width: u32, height: u32, [x, y, w, h]: [u32; 4]) -> DynamicImage {
    let inside = |i: u32, first: u32, length: u32| (first..first + length).contains(&i);
    image::GrayImage::from_fn(width, height, |i, j| {
        image::Luma([if inside(i, x, w) && inside(j, y, h) { 255 } else { 0 }])
    })
    .into()
}

fn edit(place: &Folder, args: &[&str]) -> Output {
    let model = golden("ddpm");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ancestral"));
    command
        .current_dir(&place.0)
        .args(["edit", "--device", "cpu", "--steps", "2", "-o", "out.png", "--model"]);
    command.arg(model).args(args).env_remove("RUST_LOG").output().expect("it runs")
}

#[track_caller]
fn edited(place: &Folder, args: &[&str]) -> DynamicImage {
    let output = edit(place, args);
    assert!(output.status.success(), "{}", stderr(&output));
    image::open(place.0.join("out.png")).expect("a picture")
}

/// Every pixel outside the rectangle is as before; inside some are not.
#[track_caller]
fn assert_only_inside(before: &DynamicImage, after: &DynamicImage, [x, y, w, h]: [u32; 4]) {
    let (before, after) = (before.to_rgba16(), after.to_rgba16());
    assert_eq!(before.dimensions(), after.dimensions());
    let mut changed = 0;
    for (i, j, pixel) in after.enumerate_pixels() {
        let same = pixel == before.get_pixel(i, j);
        if (x..x + w).contains(&i) && (y..y + h).contains(&j) {
            changed += u32::from(!same);
        } else {
            assert!(same, "({i}, {j}) changed outside the mask");
        }
    }
    assert!(changed > 0, "nothing changed");
}

#[test]
fn outside_the_mask_nothing_changes_whatever_the_pixels_are() {
    let place = Folder::new();
    let colour = DynamicImage::from(picture(50, 34));
    let mut clear = colour.to_rgba8();
    clear.pixels_mut().for_each(|pixel| pixel.0[3] = pixel.0[0]);
    let deep = image::ImageBuffer::from_fn(50, 34, |x, y| Rgb([x as u16 * 1301, y as u16 * 1709, 40_000]));
    let kinds: [(&str, DynamicImage); 6] = [
        ("rgb.png", colour.clone()),
        ("rgba.png", clear.into()),
        ("deep.png", DynamicImage::ImageRgb16(deep)),
        ("grey.png", colour.to_luma8().into()),
        ("grey-alpha.png", colour.to_luma_alpha16().into()),
        ("photo.jpg", colour),
    ];
    let part = [13, 9, 17, 12];
    mask(50, 34, part).save(place.0.join("mask.png")).unwrap();
    for (name, picture) in kinds {
        picture.save(place.0.join(name)).unwrap();
        let before = image::open(place.0.join(name)).unwrap();
        let after = edited(&place, &[name, "--mask", "mask.png"]);
        assert_only_inside(&before, &after, part);
        assert_eq!(after, edited(&place, &[name, "--mask", "13,9,17,12"]), "{name}: the same as a rectangle");
        let deep = before.color().bytes_per_pixel() / before.color().channel_count();
        assert_eq!(
            after.color().bytes_per_pixel() / after.color().channel_count(),
            deep,
            "{name}: its depth"
        );
    }
}

/// Palettes, and masks of every kind that say the same.
#[test]
fn masks_and_pictures_may_have_palettes_alpha_or_16_bits() {
    let place = Folder::new();
    let part = [4, 6, 10, 8];
    let indexed = |path: &Path, colours: &[u8], index: &dyn Fn(u32, u32) -> u8| {
        let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), 24, 20);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_palette(colours.to_vec());
        let pixels: Vec<u8> = (0..480).map(|i| index(i % 24, i / 24)).collect();
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    };
    let inside = |x: u32, y: u32| (4..14).contains(&x) && (6..14).contains(&y);
    indexed(&place.0.join("palette.png"), &[200, 10, 30, 20, 90, 250, 5, 5, 5], &|x, y| ((x + y) % 3) as u8);
    indexed(&place.0.join("mask.png"), &[0, 0, 0, 255, 255, 255], &|x, y| inside(x, y).into());
    let before = image::open(place.0.join("palette.png")).unwrap();
    let after = edited(&place, &["palette.png", "--mask", "mask.png"]);
    assert_only_inside(&before, &after, part);
    // White that is transparent is not drawn anew.
    let clear =
        image::RgbaImage::from_fn(24, 20, |x, y| image::Rgba([255, 255, 255, 255 * u8::from(inside(x, y))]));
    let deep = DynamicImage::ImageLuma16(mask(24, 20, part).to_luma16());
    for mask in [DynamicImage::from(clear), deep] {
        mask.save(place.0.join("mask.png")).unwrap();
        assert_eq!(edited(&place, &["palette.png", "--mask", "mask.png"]), after);
    }
}

/// A photo taken sideways: its EXIF says so, the picture and the mask are upright.
#[test]
fn a_photo_is_turned_upright() {
    let place = Folder::new();
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 100);
    // A TIFF header and one entry: orientation (0x0112), 6: turned by a quarter clockwise.
    let exif = [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0".as_slice(), &[0; 4]].concat();
    encoder.set_exif_metadata(exif).unwrap();
    encoder.encode_image(&picture(40, 24)).unwrap();
    fs::write(place.0.join("photo.jpg"), bytes).unwrap();
    mask(24, 40, [5, 20, 9, 10]).save(place.0.join("mask.png")).unwrap();
    let sideways = image::open(place.0.join("photo.jpg")).unwrap();
    let after = edited(&place, &["photo.jpg", "--mask", "mask.png"]);
    assert_only_inside(&sideways.rotate90(), &after, [5, 20, 9, 10]);
}

#[test]
fn pictures_of_odd_sizes() {
    let place = Folder::new();
    for ((w, h), part) in
        [((1, 1), [0, 0, 1, 1]), ((20_000, 30), [15_000, 3, 40, 20]), ((3, 900), [0, 5, 2, 700])]
    {
        picture(w, h).save(place.0.join("in.png")).unwrap();
        let before = image::open(place.0.join("in.png")).unwrap();
        let text = part.map(|n| n.to_string()).join(",");
        assert_only_inside(&before, &edited(&place, &["in.png", "--mask", &text]), part);
    }
    // All white: all of it is drawn anew. Black and white pictures are pictures.
    picture(20_000, 40).save(place.0.join("in.png")).unwrap();
    let before = image::open(place.0.join("in.png")).unwrap();
    assert_only_inside(&before, &edited(&place, &["in.png", "--mask", "0,0,20000,40"]), [0, 0, 20_000, 40]);
}

#[test]
fn several_results_and_several_edits() {
    let place = Folder::new();
    picture(40, 40).save(place.0.join("in.png")).unwrap();
    let before = image::open(place.0.join("in.png")).unwrap();
    let output =
        edit(&place, &["in.png", "--mask", "2,2,10,10+25,2,9,9", "--mask", "20,25,8,8", "--count", "2"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out-0.png\nout-1.png\n", "{}", stderr(&output));
    let [first, second] =
        ["out-0.png", "out-1.png"].map(|name| image::open(place.0.join(name)).unwrap().to_rgb8());
    assert_ne!(first, second);
    let masked = |x: u32, y: u32| {
        let inside = |[i, j, w, h]: [u32; 4]| (i..i + w).contains(&x) && (j..j + h).contains(&y);
        inside([2, 2, 10, 10]) || inside([25, 2, 9, 9]) || inside([20, 25, 8, 8])
    };
    let before = before.to_rgb8();
    for (x, y, pixel) in first.enumerate_pixels().filter(|(x, y, _)| !masked(*x, *y)) {
        assert_eq!((pixel, second.get_pixel(x, y)), (before.get_pixel(x, y), before.get_pixel(x, y)));
    }
    for (x, y) in [(6, 6), (29, 6), (23, 28)] {
        assert_ne!(first.get_pixel(x, y), before.get_pixel(x, y), "({x}, {y}) is in a mask");
    }
}

#[track_caller]
fn refused(place: &Folder, args: &[&str], parts: &[&str]) {
    fs::write(place.0.join("out.png"), BEFORE).unwrap();
    error_of(&edit(place, args), parts);
    assert_eq!(fs::read(place.0.join("out.png")).unwrap(), BEFORE, "the output was touched");
}

#[test]
fn what_cannot_be_edited_is_refused() {
    let place = Folder::new();
    picture(30, 20).save(place.0.join("in.png")).unwrap();
    mask(20, 30, [0, 0, 5, 5]).save(place.0.join("turned.png")).unwrap();
    mask(30, 20, [0, 0, 0, 0]).save(place.0.join("black.png")).unwrap();
    fs::write(place.0.join("text.png"), "no picture").unwrap();
    let whole = fs::read(place.0.join("in.png")).unwrap();
    fs::write(place.0.join("cut.png"), &whole[..whole.len() / 2]).unwrap();
    refused(&place, &["in.png", "--mask", "turned.png"], &["20x30", "30x20", "one size"]);
    refused(&place, &["in.png", "--mask", "black.png"], &["black.png", "White is drawn anew"]);
    refused(&place, &["in.png", "--mask", "40,2,5,5"], &["outside", "30x20"]);
    refused(&place, &["in.png", "--mask", "4,2,0,0"], &["outside", "30x20"]);
    refused(&place, &["in.png", "--mask", "nothing.png"], &["nothing.png", "X,Y,WIDTH,HEIGHT"]);
    refused(&place, &["in.png", "--mask", "-4,2,9,9"], &["-4,2,9,9", "X,Y,WIDTH,HEIGHT"]);
    refused(&place, &["in.png", "--mask", "text.png"], &["text.png", "PNG or JPEG"]);
    refused(&place, &["text.png", "--mask", "1,1,5,5"], &["text.png", "PNG or JPEG"]);
    refused(&place, &["cut.png", "--mask", "1,1,5,5"], &["cut.png", "cannot be read as a PNG or JPEG"]);
    refused(&place, &["absent.png", "--mask", "1,1,5,5"], &["absent.png"]);
    refused(&place, &["in.png", "a", "b", "--mask", "1,1,5,5"], &["masks given: 1, prompts: 2"]);
    refused(&place, &["in.png", "--mask", "1,1,5,5", "--strength", "0"], &["strength", "above 0"]);
    refused(&place, &["in.png", "--mask", "1,1,5,5", "--strength", "NaN"], &["strength", "above 0"]);
    refused(&place, &["in.png", "--mask", "1,1,5,5", "--resampling", "0,5"], &["0 times", "1 to 100"]);
    refused(&place, &["in.png", "--mask", "1,1,5,5", "--count", "0"], &["0 pictures"]);
    refused(&place, &["in.png", "--mask", "1,1,5,5", "-o", "again.png"], &["--output"]);
    // A bomb: a header that promises more pixels than there may be.
    let mut bomb = whole;
    bomb[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let crc = crc_of(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc);
    fs::write(place.0.join("bomb.png"), bomb).unwrap();
    refused(&place, &["bomb.png", "--mask", "1,1,5,5"], &["bomb.png", "65536x65536"]);
}

/// PNG's checksum.
fn crc_of(bytes: &[u8]) -> [u8; 4] {
    let crc = bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 })
    });
    (!crc).to_be_bytes()
}

/// Picture to picture by the program: near the picture at a small strength, far at a large one.
#[test]
fn a_picture_to_begin_at() {
    let (place, model) = (Folder::new(), golden("ddpm"));
    let flat = RgbImage::from_pixel(33, 50, Rgb([200, 60, 40]));
    flat.save(place.0.join("in.png")).unwrap();
    let distance = |strength: &str| {
        let output = generate(&place)
            .args(["--device", "cpu", "--steps", "10", "--init", "in.png", "--strength", strength, "--model"])
            .arg(&model)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let drawn = image::open(place.0.join("ancestral.png")).unwrap().to_rgb8();
        let off =
            |pixel: &Rgb<u8>| (0..3).map(|c| f64::from(pixel.0[c].abs_diff([200, 60, 40][c]))).sum::<f64>();
        drawn.pixels().map(off).sum::<f64>() / f64::from(drawn.width() * drawn.height())
    };
    let (near, far) = (distance("0.1"), distance("1"));
    assert!(near < 0.5 * far, "{near} at 0.1, {far} at 1");
}
