//! The main job: a builder that lost everything builds again from remora's cache alone.

use crate::support::cases::{Setting, over_the_matrix};
use crate::support::client::Build;
use crate::support::context::Context;
use crate::support::image;

const CACHE: &str = "type=s3,region=us-east-1,bucket=build-cache,name=app";

over_the_matrix!(every_step_is_cached_and_the_image_identical_on_an_empty_builder);

fn every_step_is_cached_and_the_image_identical_on_an_empty_builder(setting: Setting) {
    let mut rig = setting.rig(&["build-cache"]);
    let context = Context::two_stages();
    let images = tempfile::tempdir().expect("temp dir");
    let [cold_tar, warm_tar] = ["cold.tar", "warm.tar"].map(|name| images.path().join(name));
    let build = Build::of(context.path()).cached(CACHE);

    let cold = rig.build(&build.clone().image(&cold_tar)).expect_success();
    cold.assert_executed();
    rig.wipe();
    let warm = rig.build(&build.image(&warm_tar)).expect_success();

    warm.assert_cached();
    assert!(warm.steps.keys().eq(cold.steps.keys()), "{warm:#?}\n{cold:#?}");
    assert_eq!(image::content(&warm_tar), image::content(&cold_tar));
}
