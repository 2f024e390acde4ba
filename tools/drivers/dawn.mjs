// Runs compute passes over Dawn, the WebGPU in node's package `webgpu`, whose index.js `ANCESTRAL_DAWN` names.
//
// A request on standard input is a line of JSON and then the tensors' bytes, one after another:
//   tensors  bytes: size of the buffer, given: how many of them follow; a tensor begins with zeros
//   nodes    wgsl, constants (of overrides), params (bytes of the uniform), grid, bound (tensors at bindings 1, 2, …)
//   outputs  which tensors to send back
// The answer is a line, an error's text or null, and after null the outputs' bytes.
import { readSync, writeSync } from 'node:fs';

const { create, globals } = await import(process.env.ANCESTRAL_DAWN);
Object.assign(globalThis, globals);
const gpu = create(['backend=vulkan', 'adapter=llvmpipe']);
const adapter = await gpu.requestAdapter();
const device = await adapter.requestDevice({ requiredFeatures: ['shader-f16', 'subgroups'] });
device.lost.then(({ message }) => { console.error(message); process.exit(1); });
const pipelines = new Map();

function readAll(bytes) {
  for (let at = 0; at < bytes.length;) {
    const read = readSync(0, bytes, at, bytes.length - at);
    if (read === 0) process.exit(0);
    at += read;
  }
  return bytes;
}

function readLine() {
  const line = [];
  for (const byte = Buffer.alloc(1); readAll(byte)[0] !== 10;) line.push(byte[0]);
  return Buffer.from(line).toString();
}

function writeAll(bytes) {
  for (let at = 0; at < bytes.length;) at += writeSync(1, bytes, at, bytes.length - at);
}

function pipeline({ wgsl, constants }) {
  const key = wgsl + JSON.stringify(constants);
  if (!pipelines.has(key)) {
    const module = device.createShaderModule({ code: wgsl });
    pipelines.set(key, device.createComputePipeline({ layout: 'auto', compute: { module, constants } }));
  }
  return pipelines.get(key);
}

function buffer(size, usage, values) {
  const made = device.createBuffer({ size: Math.max(size, 16), usage: usage | GPUBufferUsage.COPY_DST });
  if (values?.length) {
    const padded = new Uint8Array(Math.ceil(values.length / 4) * 4);
    padded.set(values);
    device.queue.writeBuffer(made, 0, padded);
  }
  return made;
}

async function run({ tensors, nodes, outputs }, values) {
  const made = [];
  const keep = (one) => (made.push(one), one);
  const STORAGE = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC;
  const stored = tensors.map(({ bytes }, i) => keep(buffer(bytes, STORAGE, values[i])));
  device.pushErrorScope('validation');
  const encoder = device.createCommandEncoder();
  for (const node of nodes) {
    const uniform = keep(buffer(node.params.length, GPUBufferUsage.UNIFORM, node.params));
    // WebGPU lets no two writable bindings overlap, as ours all are: what is read twice is copied.
    const again = (i, at) => {
      if (node.bound.indexOf(i) === at) return stored[i];
      const copy = keep(buffer(tensors[i].bytes, STORAGE));
      encoder.copyBufferToBuffer(stored[i], 0, copy, 0, copy.size);
      return copy;
    };
    const resources = [uniform, ...node.bound.map(again)];
    const compute = pipeline(node);
    const pass = encoder.beginComputePass();
    pass.setPipeline(compute);
    pass.setBindGroup(0, device.createBindGroup({
      layout: compute.getBindGroupLayout(0),
      entries: resources.map((buffer, binding) => ({ binding, resource: { buffer } })),
    }));
    pass.dispatchWorkgroups(...node.grid);
    pass.end();
  }
  const staging = outputs.map((i) => {
    const size = tensors[i].bytes;
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    const mapped = keep(device.createBuffer({ size, usage }));
    encoder.copyBufferToBuffer(stored[i], 0, mapped, 0, size);
    return mapped;
  });
  device.queue.submit([encoder.finish()]);
  const error = await device.popErrorScope();
  const read = [];
  for (const one of error ? [] : staging) {
    await one.mapAsync(GPUMapMode.READ);
    read.push(Buffer.from(one.getMappedRange().slice(0)));
    one.unmap();
  }
  made.forEach((one) => one.destroy());
  if (error) throw error;
  return read;
}

for (;;) {
  const request = JSON.parse(readLine());
  const values = request.tensors.map(({ given }) => readAll(Buffer.alloc(given)));
  let read = [];
  let error = null;
  try {
    read = await run(request, values);
  } catch (reason) {
    error = reason.message;
  }
  writeAll(Buffer.from(JSON.stringify(error) + '\n'));
  read.forEach(writeAll);
}
