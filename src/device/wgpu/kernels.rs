//! The kernels, written out for an element type, an operation and a number of operands, and compiled when first used.
//!
//! The text is in `kernels/*.wgsl`, at the top of the repository; what depends on the number of operands is added here. Every
//! buffer is bound for reading and writing, because a result may be one of the operands, and because windows of one buffer
//! may be bound several times. Each invocation makes whole quads of the result from quads of the operands, and in place
//! reads no byte that counts from a quad that another one writes; `plan` sees to that.
#![forbid(unsafe_code)]

use super::gpu::Gpu;
use crate::error::Result;
use crate::types::{DType, ReduceOp};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex};

/// Invocations of a workgroup.
pub(super) const WORKGROUP: u32 = 64;
/// Bytes of `Call` in `reduce.wgsl`.
const CALL_BYTES: u32 = 64;
/// Outputs that `Call` has room for.
pub(super) const OUTPUTS: usize = 4;

/// How two elements become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Join {
    Sum,
    Prod,
    Max,
    Min,
    And,
    Or,
    Xor,
}

impl Join {
    pub(super) const ALL: [Join; 7] = [Join::Sum, Join::Prod, Join::Max, Join::Min, Join::And, Join::Or, Join::Xor];

    pub(super) fn of(op: ReduceOp) -> Join {
        match op {
            ReduceOp::Sum | ReduceOp::Avg | ReduceOp::PreMulSum(_) => Join::Sum,
            ReduceOp::Prod => Join::Prod,
            ReduceOp::Max => Join::Max,
            ReduceOp::Min => Join::Min,
            ReduceOp::BitAnd => Join::And,
            ReduceOp::BitOr => Join::Or,
            ReduceOp::BitXor => Join::Xor,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Join::Sum => "SUM",
            Join::Prod => "PROD",
            Join::Max => "MAX",
            Join::Min => "MIN",
            Join::And => "AND",
            Join::Or => "OR",
            Join::Xor => "XOR",
        }
    }
}

/// Elements and what is done to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Element {
    pub dtype: DType,
    pub join: Join,
    /// Whether f32 is computed by the adapter's own arithmetic, or else in integers.
    pub native: bool,
}

impl Element {
    /// How many quads a partial result takes for each of the result's: it is kept as what is computed with, 32 bits for every
    /// smaller element.
    pub(super) fn partial_quads(self) -> usize {
        slices(self.dtype)
    }
}

/// What a kernel reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Operand {
    /// Elements in memory.
    Elements,
    /// A partial result, kept by another kernel.
    Partial,
    /// The factor of a pre-multiplied sum, for all elements.
    Factor,
}

/// What a kernel is compiled for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Kernel {
    /// `None` for bytes that are only copied.
    pub element: Option<Element>,
    pub operands: Vec<Operand>,
    pub outputs: usize,
    /// Whether the output is a partial result.
    pub partial: bool,
    /// Whether the sum is divided.
    pub divide: bool,
}

/// A kernel, compiled.
pub(super) struct Program {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// All that were compiled so far.
#[derive(Default)]
pub(super) struct Programs(Mutex<HashMap<Kernel, Arc<Program>>>);

impl Programs {
    pub(super) fn get(&self, gpu: &Gpu, kernel: &Kernel) -> Result<Arc<Program>> {
        // Held while compiling: other ranks of the process are about to want the same one.
        let mut programs = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(program) = programs.get(kernel) {
            return Ok(Arc::clone(program));
        }
        let program = Arc::new(gpu.checked("compiling a kernel", || compile(&gpu.device, kernel))?);
        programs.insert(kernel.clone(), Arc::clone(&program));
        Ok(program)
    }
}

fn compile(device: &wgpu::Device, kernel: &Kernel) -> Program {
    let source = wgpu::ShaderSource::Wgsl(text(kernel).into());
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
    let entries: Vec<_> = (0..kernel.bindings())
        .map(|binding| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: false },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        })
        .collect();
    let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(&layout)],
        immediate_size: CALL_BYTES,
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    Program { pipeline, layout }
}

impl Kernel {
    /// Operands in memory, and outputs.
    fn bindings(&self) -> u32 {
        let in_memory = self.operands.iter().filter(|&&operand| operand != Operand::Factor).count();
        (in_memory + self.outputs) as u32
    }
}

/// Elements of a word.
fn slices(dtype: DType) -> usize {
    (4 / dtype.size_bytes()).max(1)
}

/// The whole program.
fn text(kernel: &Kernel) -> String {
    let mut text = constants(kernel);
    let mut add = |part: &str| text.push_str(part);
    add(include_str!("../../../kernels/quad.wgsl"));
    add(include_str!("../../../kernels/reduce.wgsl"));
    match kernel.element {
        None => {}
        Some(Element { dtype, .. }) if dtype.size_bytes() == 8 => add(include_str!("../../../kernels/pair.wgsl")),
        Some(_) => {
            add(include_str!("../../../kernels/element.wgsl"));
            add(include_str!("../../../kernels/order.wgsl"));
            add(include_str!("../../../kernels/real.wgsl"));
            add(include_str!("../../../kernels/format.wgsl"));
        }
    }
    text + &bindings(kernel)
}

/// The facts of the element type that the kernels ask for.
fn constants(kernel: &Kernel) -> String {
    let mut text = String::new();
    let mut number = |name: &str, value: u32| writeln!(text, "const {name} = {value}u;").expect("a string takes all");
    for (code, name) in ["UNSIGNED", "SIGNED", "F16", "BF16", "E4M3", "E5M2", "F32", "F64"].into_iter().enumerate() {
        number(name, code as u32);
    }
    for (code, join) in Join::ALL.into_iter().enumerate() {
        number(join.word(), code as u32);
    }
    number("WORKGROUP", WORKGROUP);
    if let Some(Element { dtype, join, .. }) = kernel.element {
        // Format; then mantissa bits, bias, code of infinity (e4m3: of the greatest number), code of NaN.
        let (format, float) = match dtype {
            DType::I8 | DType::I32 | DType::I64 => (1, None),
            DType::U8 | DType::U32 | DType::U64 => (0, None),
            DType::F16 => (2, Some((10, 15, 0x7c00, 0x7e00))),
            DType::Bf16 => (3, Some((7, 127, 0x7f80, 0x7fc0))),
            DType::F8E4M3 => (4, Some((3, 7, 0x7e, 0x7f))),
            DType::F8E5M2 => (5, Some((2, 15, 0x7c, 0x7e))),
            DType::F32 => (6, Some((23, 127, 0x7f80_0000, 0x7fc0_0000))),
            DType::F64 => (7, None),
        };
        let (mantissa, bias, infinity, nan) = float.unwrap_or((23, 127, 0x7f80_0000, 0x7fc0_0000));
        let bits = 8 * dtype.size_bytes() as u32;
        number("BITS", bits);
        number("SIGN", 1 << (bits.min(32) - 1));
        number("FORMAT", format);
        number("OP", join as u32);
        number("SLICES", slices(dtype) as u32);
        number("MANTISSA_BITS", mantissa);
        number("BIAS", bias);
        number("INFINITY_CODE", infinity);
        number("NAN_CODE", nan);
    }
    let mut flag = |name: &str, value: bool| writeln!(text, "const {name} = {value};").expect("a string takes all");
    flag("PARTIAL", kernel.partial);
    if let Some(element) = kernel.element {
        flag("FLOAT", !element.dtype.is_integer());
        flag("NATIVE", element.native);
    }
    text
}

/// What depends on the number of operands and outputs.
fn bindings(kernel: &Kernel) -> String {
    let mut text = String::new();
    let mut line = |words: String| writeln!(text, "{words}").expect("a string takes all");
    let storage = |binding: usize, name: String| {
        format!("@group(0) @binding({binding}) var<storage, read_write> {name}: array<vec4<u32>>;")
    };
    let mut binding = 0;
    let mut leaves = Vec::new();
    let mut loads = String::new();
    for (k, operand) in kernel.operands.iter().enumerate() {
        let at = format!("call.from_{}.{}", ["first", "second"][k / 4], ["x", "y", "z", "w"][k % 4]);
        leaves.push(match operand {
            Operand::Factor => "widen(factor())".to_string(),
            Operand::Partial => format!("from_{k}[({at} >> 4u) + quad * SLICES + slice]"),
            Operand::Elements => {
                line(format!(
                    "fn operand_{k}(quad: u32) -> vec4<u32> {{
                        let at = {at} + 16u * quad;
                        if (at & 15u) == 0u {{ return from_{k}[at >> 4u]; }}
                        return cut(from_{k}[at >> 4u], from_{k}[(at >> 4u) + 1u], at & 15u);
                    }}"
                ));
                write!(loads, "let x{k} = operand_{k}(quad);").expect("a string takes all");
                format!("widen(take(x{k}, slice))")
            }
        });
        if *operand != Operand::Factor {
            line(storage(binding, format!("from_{k}")));
            binding += 1;
        }
    }
    for k in 0..kernel.outputs {
        line(storage(binding + k, format!("into_{k}")));
    }
    let tree = tree(&leaves);
    let tree = if kernel.divide { format!("share({tree})") } else { tree };
    line(match (kernel.element, kernel.partial) {
        (None, _) => "fn result(quad: u32) -> vec4<u32> { return operand_0(quad); }".to_string(),
        (Some(_), true) => "fn result(quad: u32) -> vec4<u32> { return vec4(0u); }".to_string(),
        (Some(_), false) => format!(
            "fn result(quad: u32) -> vec4<u32> {{
                {loads}
                var all = vec4(0u);
                for (var slice = 0u; slice < SLICES; slice++) {{ all |= put(narrow({tree}), slice); }}
                return all;
            }}"
        ),
    });
    line(match kernel.partial {
        false => "fn keep(quad: u32) {}".to_string(),
        true => format!(
            "fn keep(quad: u32) {{
                {loads}
                for (var slice = 0u; slice < SLICES; slice++) {{
                    into_0[(call.into.x >> 4u) + quad * SLICES + slice] = {tree};
                }}
            }}"
        ),
    });
    line("fn store(quad: u32, value: vec4<u32>, mask: vec4<u32>) {".to_string());
    for k in 0..kernel.outputs {
        let at = format!("(call.into.{} >> 4u) + quad", ["x", "y", "z", "w"][k]);
        line(format!(
            "if all(mask == vec4(0xffffffffu)) {{ into_{k}[{at}] = value; }}
            else {{ into_{k}[{at}] = (into_{k}[{at}] & ~mask) | (value & mask); }}"
        ));
    }
    line("}".to_string());
    text
}

/// The canonical tree: the left part is the largest power of two below the number of operands.
fn tree(leaves: &[String]) -> String {
    match leaves {
        [one] => one.clone(),
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            format!("join({}, {})", tree(left), tree(right))
        }
    }
}
