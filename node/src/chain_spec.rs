//! The chains this binary knows by name: `dev` and `local`. Any other chain is a file.

use nsn_runtime::WASM_BINARY;
use sc_service::ChainType;

/// A chain specification of an NSN chain; its genesis state is a preset of the runtime.
pub type ChainSpec = sc_service::GenericChainSpec;

/// One validator, Alice, who also holds the sudo key. Keys and balances of the well-known accounts.
///
/// # Errors
/// When the runtime was built without its wasm (`SKIP_WASM_BUILD`).
pub fn development() -> Result<ChainSpec, String> {
    preset(
        "NSN Development",
        "nsn_dev",
        ChainType::Development,
        sp_genesis_builder::DEV_RUNTIME_PRESET,
    )
}

/// Two validators, Alice and Bob.
///
/// # Errors
/// When the runtime was built without its wasm (`SKIP_WASM_BUILD`).
pub fn local() -> Result<ChainSpec, String> {
    preset(
        "NSN Local Testnet",
        "nsn_local_testnet",
        ChainType::Local,
        sp_genesis_builder::LOCAL_TESTNET_RUNTIME_PRESET,
    )
}

fn preset(name: &str, id: &str, kind: ChainType, preset: &str) -> Result<ChainSpec, String> {
    let wasm = WASM_BINARY.ok_or(
        "this binary was built without the wasm runtime (SKIP_WASM_BUILD was set); build it again without it",
    )?;
    Ok(ChainSpec::builder(wasm, None)
        .with_name(name)
        .with_id(id)
        .with_protocol_id("nsn")
        .with_chain_type(kind)
        .with_genesis_config_preset_name(preset)
        .build())
}
