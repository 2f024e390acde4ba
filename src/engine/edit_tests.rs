use super::*;

fn redrawn(x: usize, y: usize, width: usize, height: usize) -> Rectangle {
    Rectangle { x, y, width, height }
}

#[test]
fn a_small_part_of_a_large_photo_is_seen_pixel_by_pixel() {
    let window = Window::around(redrawn(1000, 700, 60, 40), (4000, 3000), (256, 256));
    assert_eq!(window.inside, redrawn(902, 592, 256, 256));
    assert_eq!(window.seen, redrawn(0, 0, 256, 256));
}

#[test]
fn a_window_stays_inside_the_photo() {
    let window = Window::around(redrawn(3990, 0, 10, 10), (4000, 3000), (256, 256));
    assert_eq!(window.inside, redrawn(4000 - 256, 0, 256, 256));
}

#[test]
fn a_large_part_is_seen_with_half_of_its_size_around_it() {
    let window = Window::around(redrawn(1000, 1000, 1000, 500), (4000, 3000), (256, 256));
    assert_eq!(window.inside, redrawn(750, 500, 1500, 1500));
}

#[test]
fn a_long_photo_repeats_its_edges() {
    let window = Window::around(redrawn(0, 0, 20_000, 3), (20_000, 3), (64, 64));
    assert_eq!((window.inside, window.seen), (redrawn(0, 0, 20_000, 3), redrawn(0, 31, 64, 1)));
    let one = Window::around(redrawn(0, 0, 1, 1), (1, 1), (64, 64));
    assert_eq!((one.inside, one.seen), (redrawn(0, 0, 1, 1), redrawn(0, 0, 64, 64)));
}

/// Photos of every kind of pixel: what is masked changes, all else keeps its value at its own depth.
#[test]
fn only_masked_pixels_change() {
    let (w, h) = (30, 20);
    let grey = image::GrayImage::from_fn(w, h, |x, y| image::Luma([(x * 7 + y * 3) as u8]));
    let grey = DynamicImage::from(grey);
    let kinds = [
        grey.clone(),
        grey.to_luma_alpha8().into(),
        grey.to_rgb8().into(),
        grey.to_rgba8().into(),
        grey.to_luma16().into(),
        grey.to_luma_alpha16().into(),
        grey.to_rgb16().into(),
        grey.to_rgba16().into(),
    ];
    let mask = Mask::new(30, 20, |x, y| (8..15).contains(&x) && (3..9).contains(&y));
    for before in kinds {
        let window = Window::around(mask.bounds().expect("a part"), (30, 20), (16, 16));
        let mut photo = Photo { pixels: in_colour(before.clone()), icc_profile: None };
        let drawn = window.view(&photo);
        let inverted = Picture { values: drawn.values.iter().map(|v| -v).collect(), ..drawn };
        window.put(&mut photo, &mask, &inverted);
        let (before, after) = (before.to_rgba16(), photo.pixels.to_rgba16());
        let mut changed = 0;
        for (x, y, pixel) in after.enumerate_pixels() {
            if !mask.redraws(x as usize, y as usize) {
                assert_eq!(pixel, before.get_pixel(x, y));
            } else {
                changed += usize::from(pixel != before.get_pixel(x, y));
                assert_eq!(pixel.0[3], u16::MAX);
            }
        }
        assert!(changed > 20, "{changed} of 42 changed");
    }
}
