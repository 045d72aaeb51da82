//! The runtime whose manifest the variable `NSN_RUNTIME` names, as wasm, with its benchmarks.

fn main() {
    let manifest = std::env::var("NSN_RUNTIME").expect("NSN_RUNTIME names a Cargo.toml");
    println!("cargo::rerun-if-env-changed=NSN_RUNTIME");
    substrate_wasm_builder::WasmBuilder::new()
        .with_project(manifest)
        .expect("the manifest is there")
        .enable_feature("runtime-benchmarks")
        .export_heap_base()
        .import_memory()
        .build();
}
