// The picture of this page as a function of real coordinates, in WebGL2. What is computed is what inrcodec/render.py
// says; how its numbers are laid out, inrcodec/viewer/__init__.py. The shaders are made for the shapes of the network.
'use strict';

const TILE = 256;       // pixels along the side of what the filters look at together
const EDGE = 2;         // pixels around a tile that interpolation between its pixels needs
const SLOTS = 64;       // tiles whose filters' outputs are kept
const CHUNK = 128;      // screen pixels along the side of what is drawn at once
const MAX_ZOOM = 256;   // screen pixels per pixel
const BRISK = 24;       // milliseconds: after less, more is done per frame
const SLOW = 60;        // milliseconds: after more, less

const element = (id) => document.getElementById(id);
const main = document.querySelector('main');
const plain = element('plain');
const canvas = element('view');
const tools = element('tools');
const model = JSON.parse(element('model').textContent);
const size = model.size;                                     // of the picture, in pixels
const cells = model.cells;                                   // of the finest field; shaders call them pixels
const sizeInCells = size.map((side) => side / model.spacing);

// ---------------------------------------------------------------------------------------------- shaders

const float = (x) => x.toExponential();
const HEAD = `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
precision highp sampler2DArray;
precision highp isampler2DArray;
const ivec2 size = ivec2(${cells});
const vec2 extent = vec2(${sizeInCells.map(float)});
out vec4 colour;
`;
const vec4 = (values) => `vec4(${[0, 1, 2, 3].map((i) => float(values[i] ?? 0))})`;

/** GLSL: the numbers of a bank, as W_name(i). A uniform block is faster than a texture, but it may not be large, and of them there are few. */
function bankSource(gl, name, before = 0) {
  const { start, count } = model.banks[name];
  const fits = 16 * count <= gl.getParameter(gl.MAX_UNIFORM_BLOCK_SIZE) && before < gl.getParameter(gl.MAX_FRAGMENT_UNIFORM_BLOCKS);
  return (fits
    ? `layout(std140) uniform B_${name} { vec4 b_${name}[${count}]; };
       #define W_${name}(i) b_${name}[i]`
    : `#define W_${name}(i) texelFetch(numbers, ivec2((${start} + (i)) & 1023, (${start} + (i)) >> 10), 0)`) + `
    vec4 times_${name}(int i, vec4 x) {
      return W_${name}(i) * x.x + W_${name}(i + 1) * x.y + W_${name}(i + 2) * x.z + W_${name}(i + 3) * x.w;
    }
    `;
}

/** GLSL: a linear map of the vectors `from` to the new vectors `to`, through a function. */
function linear(name, from, to, through = '') {
  const { inputs, outputs } = model.banks[name];
  return `
    vec4 ${to}[${outputs}];
    for (int o = 0; o < ${outputs}; o++) {
      vec4 sum = W_${name}(${4 * inputs * outputs} + o);
      for (int i = 0; i < ${inputs}; i++) sum += times_${name}(4 * (o * ${inputs} + i), ${from}[i]);
      ${to}[o] = ${through}(sum);
    }`;
}

// Interpolation between the cells of a level. A position is an integer pixel `base` plus `past` pixels, which stays
// exact however far one zooms in.
const taps = (sampler) => `
vec4 between(${sampler} cells, ivec2 corner, ivec2 count, int layer, int level, mat4 kernel, ivec2 base, vec2 past) {
  float stride = float(1 << level);
  vec2 at = (vec2(base & ((1 << level) - 1)) + past) / stride - 0.5;
  vec2 f = at - floor(at);
  ivec2 first = (base >> level) + ivec2(floor(at)) - 1;
  vec4 x = kernel * vec4(1, f.x, f.x * f.x, f.x * f.x * f.x);
  vec4 y = kernel * vec4(1, f.y, f.y * f.y, f.y * f.y * f.y);
  ivec4 column = clamp(first.x + ivec4(0, 1, 2, 3), 0, count.x - 1) - corner.x;
  vec4 sum = vec4(0);
  for (int j = 0; j < 4; j++) {
    int row = clamp(first.y + j, 0, count.y - 1) - corner.y;
    sum += y[j] * (x.x * vec4(texelFetch(cells, ivec3(column.x, row, layer), 0))
                 + x.y * vec4(texelFetch(cells, ivec3(column.y, row, layer), 0))
                 + x.z * vec4(texelFetch(cells, ivec3(column.z, row, layer), 0))
                 + x.w * vec4(texelFetch(cells, ivec3(column.w, row, layer), 0)));
  }
  return sum;
}
`;

/** GLSL: columns of the matrix from the powers of a position to the weights of 4 cells. */
const kernel = (level) => `mat4(${[0, 1, 2, 3].map((power) => vec4(level.kernel.map((cell) => cell[power])))})`;

/** GLSL: `x`, what the network sees at a position, and `network(x)`, its value there. */
function networkSource(gl) {
  const inputs = model.banks.siren0.inputs;
  const names = Object.keys(model.banks).filter((name) => /^(siren|skip)/.test(name));
  const lines = [];
  if (model.coordinates) lines.push('vec4((vec2(base) + past) * 2.0 / vec2(size) - 1.0, 0, 0)');
  model.levels.forEach((level, l) => {
    for (let layer = 0; 4 * layer < level.channels; layer++) {
      const gains = vec4(level.gains.slice(4 * layer, 4 * layer + 4));
      lines.push(`${gains} * between(field${l}, ivec2(0), ivec2(${level.columns}, ${level.rows}), ${layer}, ${l},
        ${kernel(level)}, base, past)`);
    }
  });
  const last = model.layers - 1;
  return `
    uniform sampler2D numbers;
    ${model.levels.map((_, l) => `uniform isampler2DArray field${l};`).join('\n')}
    ${names.map((name, i) => bankSource(gl, name, i)).join('\n')}
    ${model.levels.length ? taps('isampler2DArray') : ''}
    // Of GPUs one may only expect a sine within 2^-11, and that only in [-pi, pi] (Vulkan, "Precision of GLSL.std.450").
    // So: x - k pi in two parts (Cody and Waite), then the odd polynomial that is best on [-pi/2, pi/2].
    vec4 sine(vec4 x) {
      vec4 k = round(x * 0.318309886);
      vec4 r = (x - k * 3.140625) - k * 9.67653589793e-4;
      vec4 r2 = r * r;
      vec4 s = r + r * r2 * (-0.16666657 + r2 * (8.3330255e-3 + r2 * (-1.980741e-4 + r2 * 2.6019031e-6)));
      return s * (1.0 - 2.0 * (k - 2.0 * floor(k * 0.5)));
    }
    #define INPUTS vec4 x[${inputs}]; ${lines.map((line, i) => `x[${i}] = ${line.replace(/\n\s*/g, ' ')};`).join(' ')}
    vec4 network(vec4 x[${inputs}]) {
      ${Array.from({ length: last }, (_, i) => linear(`siren${i}`, i ? `h${i}` : 'x', `h${i + 1}`, 'sine')).join('')}
      ${linear(`siren${last}`, `h${last}`, 'y')}
      ${model.banks.skip ? `${linear('skip', 'x', 'z')} return y[0] + z[0];` : 'return y[0];'}
    }
    `;
}

/** What the filters see at pixel centres: the picture without them in layer 0, behind it the finest planes. */
const seenSource = (gl) => `${HEAD}${networkSource(gl)}
uniform ivec2 origin;
uniform int layer;
void main() {
  ivec2 base = clamp(ivec2(gl_FragCoord.xy) + origin, ivec2(0), size - 1);
  vec2 past = vec2(0.5);
  INPUTS
  if (layer == 0) colour = network(x);
  else colour = x[layer - 1 + ${model.coordinates ? 1 : 0}];
}`;

/**
 * One group of the outputs of a 3x3 layer. The first of a filter's sees what is `added` to the picture, too; one in the
 * middle adds to what it sees.
 */
const layerSource = (gl, name, place) => `${HEAD}
uniform sampler2D numbers;
uniform sampler2DArray source;
uniform sampler2DArray added;
uniform ivec2 shift, low, high;
uniform int group;
${bankSource(gl, name)}
void main() {
  const int inputs = ${model.banks[name].inputs};
  ivec2 at = ivec2(gl_FragCoord.xy) + shift;
  vec4 sum = W_${name}(${36 * model.banks[name].inputs * model.banks[name].outputs} + group);
  for (int tap = 0; tap < 9; tap++) {
    ivec2 there = clamp(at + ivec2(tap % 3, tap / 3) - 1, low, high);
    for (int i = 0; i < inputs; i++) {
      vec4 value = texelFetch(source, ivec3(there, i), 0);
      ${place === 'first' ? 'if (i == 0) value += texelFetch(added, ivec3(there, 0), 0);' : ''}
      sum += times_${name}(4 * ((group * 9 + tap) * inputs + i), value);
    }
  }
  colour = ${{
    first: 'max(sum, 0.0)',
    middle: 'max(sum, 0.0) + texelFetch(source, ivec3(clamp(at, low, high), group), 0)',
    last: 'sum',
  }[place]};
}`;

// Where a fragment of the screen is on the picture, and the picture's opacity on a checkerboard.
const SCREEN = `
uniform sampler2D picture;
uniform ivec2 base;
uniform vec2 offset;
uniform float pixel, screen;
vec2 fragment() { return vec2(gl_FragCoord.x, screen - gl_FragCoord.y); }
vec4 shown(vec3 value, float opacity) {
  ivec2 square = ivec2(fragment()) >> 3;
  return vec4(mix(vec3(((square.x + square.y) & 1) == 0 ? 0.4 : 0.6), value, opacity), 1);
}
`;

/** The function at any positions. */
function functionSource(gl) {
  const parts = model.filters.reduce((sum, name) => sum + model.banks[`${name}Out`].outputs, 0);
  const factors = ['1.0', 'wave.x', 'wave.y', 'wave.x * wave.y', '1.0 - near * near', 'near'];
  const restoration = factors.slice(0, parts).map((factor, p) =>
    `(${factor}) * between(parts, corner, size, ${parts} * slot + ${p}, 0, ${kernel(model.levels[0])}, base, past)`);
  return `${HEAD}${networkSource(gl)}${SCREEN}
uniform sampler2DArray parts;
uniform ivec2 corner;
uniform int slot;
${model.levels.length ? taps('sampler2DArray') : ''}
void main() {
  vec2 past = offset + fragment() * pixel;
  INPUTS
  vec4 value = network(x);
  ${model.levels.length ? `
  vec4 wave = sine(6.28318531 * ((past - floor(past)).xyxy - vec4(0.5, 0.5, 0.25, 0.25)));  // sines, cosines
  float near = max(wave.z, 0.0) * max(wave.w, 0.0);
  value += ${restoration.join(' + ')};` : ''}
  vec3 visible = clamp(value.xyz + 0.5, 0.0, 1.0);
  ${model.grey ? 'visible = vec3((visible.x + visible.y + visible.z) / 3.0);' : ''}
  colour = shown(visible, texture(picture, (vec2(base) + past) / extent).a);
}`;
}

/** The ordinary picture. */
const pictureSource = () => `${HEAD}${SCREEN}
void main() {
  vec4 texel = texture(picture, (vec2(base) + offset + fragment() * pixel) / (extent * ${float(model.spacing)}));
  colour = shown(texel.rgb, texel.a);
}`;

// ---------------------------------------------------------------------------------------------- drawing

/** The bytes that gzip and base64 have made of the network's numbers and fields. */
async function inflate(text) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Response(stream).arrayBuffer();
}

/** Draws the picture into a WebGL2 context. Errors say what the browser cannot do. */
function painter(gl, bytes) {
  const filtered = model.levels.length > 0;
  const float = gl.getExtension('EXT_color_buffer_float') ? gl.RGBA32F
    : gl.getExtension('EXT_color_buffer_half_float') ? gl.RGBA16F : 0;
  if (filtered && !float) throw new Error('this browser cannot draw into textures of real numbers');
  const limit = gl.getParameter(gl.MAX_TEXTURE_SIZE);
  if (Math.max(...size) > limit) throw new Error(`the picture is wider or higher than the ${limit} pixels that WebGL can hold here`);

  const vertex = compile(gl.VERTEX_SHADER, `#version 300 es
    void main() { gl_Position = vec4(gl_VertexID == 1 ? 3 : -1, gl_VertexID == 2 ? 3 : -1, 0, 1); }`);
  const framebuffer = gl.createFramebuffer();
  const units = [];  // the texture of each texture unit
  const unitOf = new Map();
  const buffers = new Map();
  let at = 0;
  gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);

  function compile(kind, source) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    return shader;
  }

  /** A function that selects a program and sets its integers, reals and vectors. */
  function program(source) {
    const made = gl.createProgram();
    gl.attachShader(made, vertex);
    gl.attachShader(made, compile(gl.FRAGMENT_SHADER, source));
    gl.linkProgram(made);
    if (!gl.getProgramParameter(made, gl.LINK_STATUS)) {
      const [, fragment] = gl.getAttachedShaders(made);
      throw new Error(`the graphics driver refuses a shader: ${gl.getShaderInfoLog(fragment) || gl.getProgramInfoLog(made)}`);
    }
    gl.useProgram(made);
    const uniforms = new Map();
    for (let i = 0; i < gl.getProgramParameter(made, gl.ACTIVE_UNIFORMS); i++) {
      const { name, type } = gl.getActiveUniform(made, i);
      const place = gl.getUniformLocation(made, name);
      if (!place) continue;  // inside a block
      if (unitOf.has(name)) gl.uniform1i(place, unitOf.get(name));
      uniforms.set(name, [place, { [gl.INT]: 'uniform1i', [gl.FLOAT]: 'uniform1f', [gl.INT_VEC2]: 'uniform2i', [gl.FLOAT_VEC2]: 'uniform2f' }[type]]);
    }
    const blocks = [];
    for (let i = 0; i < gl.getProgramParameter(made, gl.ACTIVE_UNIFORM_BLOCKS); i++) {
      gl.uniformBlockBinding(made, i, i);
      blocks.push(buffers.get(gl.getActiveUniformBlockName(made, i).slice(2)));
    }
    return (values) => {
      gl.useProgram(made);
      blocks.forEach((buffer, i) => gl.bindBufferBase(gl.UNIFORM_BUFFER, i, buffer));
      for (const [name, value] of Object.entries(values)) {
        const [place, setter] = uniforms.get(name) ?? [];
        if (setter) gl[setter](place, ...[value].flat());
      }
    };
  }

  /** A new texture, bound to a unit of its own, where the shaders know it by its name. */
  function texture(name, target) {
    const made = gl.createTexture();
    unitOf.set(name, units.length);
    gl.activeTexture(gl.TEXTURE0 + units.length);
    units.push(made);
    gl.bindTexture(target, made);
    gl.texParameteri(target, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(target, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.texParameteri(target, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(target, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    return made;
  }

  function target(name, format, width, height, layers) {
    const made = texture(name, gl.TEXTURE_2D_ARRAY);
    gl.texStorage3D(gl.TEXTURE_2D_ARRAY, 1, format, width, height, layers);
    return made;
  }

  const picture = texture('picture', gl.TEXTURE_2D);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, plain);
  gl.generateMipmap(gl.TEXTURE_2D);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);

  const total = Object.values(model.banks).reduce((sum, { count }) => sum + count, 0);
  const rows = Math.ceil(total / 1024);
  const numbers = new Float32Array(4096 * rows);
  numbers.set(new Float32Array(bytes, 0, 4 * total));
  at = 16 * total;
  texture('numbers', gl.TEXTURE_2D);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, 1024, rows, 0, gl.RGBA, gl.FLOAT, numbers);
  for (const [name, { start, count }] of Object.entries(model.banks)) {
    buffers.set(name, gl.createBuffer());
    gl.bindBuffer(gl.UNIFORM_BUFFER, buffers.get(name));
    gl.bufferData(gl.UNIFORM_BUFFER, numbers.subarray(4 * start, 4 * (start + count)), gl.STATIC_DRAW);
  }
  model.levels.forEach(({ channels, rows, columns }, l) => {
    const width = Math.min(channels, 4);
    const layers = Math.ceil(channels / 4);
    const [inside, outside] = [[gl.R16I, gl.RED_INTEGER], [gl.RG16I, gl.RG_INTEGER], [gl.RGB16I, gl.RGB_INTEGER], [gl.RGBA16I, gl.RGBA_INTEGER]][width - 1];
    const values = new Int16Array(bytes, at, rows * columns * width * layers);
    at += values.byteLength;
    texture(`field${l}`, gl.TEXTURE_2D_ARRAY);
    gl.texImage3D(gl.TEXTURE_2D_ARRAY, 0, inside, columns, rows, layers, 0, outside, gl.SHORT, values);
  });

  const tile = cells.map((side) => Math.min(side, TILE));
  const slots = new Map();  // from tiles to the slots of `parts` that hold them, the one used longest ago first
  let capacity = 0;
  let passes = {};
  if (filtered) {
    const scratch = tile.map((side) => side + 2 * (EDGE + model.reach));
    const most = (part, what) => Math.max(...model.filters.map((name) => model.banks[name + part][what]));
    const count = model.filters.reduce((sum, name) => sum + model.banks[`${name}Out`].outputs, 0);
    capacity = Math.min(SLOTS, Math.ceil(cells[0] / TILE) * Math.ceil(cells[1] / TILE),
      Math.floor(gl.getParameter(gl.MAX_ARRAY_TEXTURE_LAYERS) / count));
    passes = {
      seen: { texture: target('seen', float, ...scratch, most('In', 'inputs')), count: most('In', 'inputs') },
      hidden: { texture: target('hidden', float, ...scratch, most('In', 'outputs')) },
      deeper: { texture: target('deeper', float, ...scratch, most('In', 'outputs')) },
      added: { texture: target('added', float, ...scratch, 1) },
      parts: { texture: target('parts', gl.RGBA16F, ...tile.map((side) => side + 2 * EDGE), count * capacity), count },
    };
    passes.see = program(seenSource(gl));
    let part = 0;
    passes.filters = model.filters.map((name) => {
      let [from, to] = ['seen', 'hidden'];
      const layer = (bank, place) => {
        unitOf.set('source', unitOf.get(from));
        [from, to] = [to, to === 'hidden' ? 'deeper' : 'hidden'];
        return { draw: program(layerSource(gl, bank, place)), to: passes[from], groups: model.banks[bank].outputs };
      };
      const middle = Object.keys(model.banks).filter((bank) => bank.startsWith(`${name}Mid`));
      const hidden = [layer(`${name}In`, 'first'), ...middle.map((bank) => layer(bank, 'middle'))];
      const found = { hidden, last: layer(`${name}Out`, 'last'), part };
      part += found.last.groups;
      return found;
    });
  }
  const drawPicture = program(pictureSource());
  const drawFunction = program(functionSource(gl));
  const triangle = () => gl.drawArrays(gl.TRIANGLES, 0, 3);

  /** Draws into a layer of a texture. */
  function into(made, layer) {
    gl.bindFramebuffer(gl.FRAMEBUFFER, framebuffer);
    gl.framebufferTextureLayer(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, made, 0, layer);
    triangle();
  }

  /** Computes what the filters add around the pixels of a tile, in steps, and gives the slot that has it. */
  function* prepare(column, row) {
    const key = `${column} ${row}`;
    let slot = slots.get(key);
    if (slot === undefined) {
      if (slots.size === capacity) slots.delete(slots.keys().next().value);
      const taken = new Set(slots.values());
      slot = [...Array(capacity).keys()].find((free) => !taken.has(free));
      const corner = [column * TILE, row * TILE];
      const extent = corner.map((start, axis) => Math.min(TILE, cells[axis] - start));
      const origin = corner.map((start) => start - EDGE - model.reach);
      const area = extent.map((side) => side + 2 * (EDGE + model.reach));
      const inside = { shift: [0, 0], low: origin.map((o) => Math.max(0, -o)), high: origin.map((o, axis) => Math.min(cells[axis] - 1 - o, area[axis] - 1)) };
      const all = { shift: [0, 0], low: [0, 0], high: area.map((side) => side - 1) };
      const ready = () => { gl.disable(gl.SCISSOR_TEST); gl.viewport(0, 0, ...area); };

      ready();
      gl.bindFramebuffer(gl.FRAMEBUFFER, framebuffer);
      gl.framebufferTextureLayer(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, passes.added.texture, 0, 0);
      gl.clearBufferfv(gl.COLOR, 0, [0, 0, 0, 0]);
      for (let layer = 0; layer < passes.seen.count; layer++) {
        passes.see({ origin, layer });
        into(passes.seen.texture, layer);
      }
      for (const [number, { hidden, last, part }] of passes.filters.entries()) {
        for (const [depth, { draw, to, groups }] of hidden.entries()) {
          yield;
          ready();
          for (let group = 0; group < groups; group++) {
            draw({ ...(depth ? all : inside), group });
            into(to.texture, group);
          }
        }
        yield;
        ready();
        if (number === 0) {
          last.draw({ ...all, group: 0 });
          into(passes.added.texture, 0);
        }
        gl.viewport(0, 0, ...extent.map((side) => side + 2 * EDGE));
        for (let group = 0; group < last.groups; group++) {
          last.draw({ ...all, shift: [model.reach, model.reach], group });
          into(passes.parts.texture, slot * passes.parts.count + part + group);
        }
      }
      yield;
    }
    slots.delete(key);
    slots.set(key, slot);
    return slot;
  }

  /** Draws into a rectangle of the canvas, (0, 0) is the top left corner. */
  function onCanvas(view, draw, left, top, right, bottom, more) {
    const base = [view.left + left / view.zoom, view.top + top / view.zoom].map(Math.floor);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.enable(gl.SCISSOR_TEST);
    gl.scissor(left, canvas.height - bottom, right - left, bottom - top);
    draw({ base, offset: [view.left - base[0], view.top - base[1]], pixel: 1 / view.zoom, screen: canvas.height, ...more });
    triangle();
  }

  /** Screen pixels whose centres are in a part of the picture: the first of them and the one after the last. */
  const span = (from, to, start, zoom, end) =>
    [from, to].map((position) => Math.min(end, Math.max(0, Math.ceil((position - start) * zoom - 0.5))));

  return {
    /** The ordinary picture, at once. */
    picture(view, nearest) {
      gl.bindFramebuffer(gl.FRAMEBUFFER, null);
      gl.disable(gl.SCISSOR_TEST);
      gl.clearColor(0.086, 0.094, 0.11, 1);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.activeTexture(gl.TEXTURE0 + unitOf.get('picture'));
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, nearest ? gl.NEAREST : gl.LINEAR);
      const [left, right] = span(0, size[0], view.left, view.zoom, canvas.width);
      const [top, bottom] = span(0, size[1], view.top, view.zoom, canvas.height);
      onCanvas(view, drawPicture, left, top, right, bottom);
    },

    /** The function, in steps, from the middle of the view outwards. */
    *refine({ left: x0, top: y0, zoom }) {
      const view = { left: x0 / model.spacing, top: y0 / model.spacing, zoom: zoom * model.spacing };  // in cells
      const tiles = [];
      const first = [view.left, view.top].map((start) => Math.max(0, Math.floor(start / TILE)));
      const middle = [view.left + canvas.width / 2 / view.zoom, view.top + canvas.height / 2 / view.zoom];
      for (let row = first[1]; row * TILE < Math.min(sizeInCells[1], view.top + canvas.height / view.zoom); row++) {
        for (let column = first[0]; column * TILE < Math.min(sizeInCells[0], view.left + canvas.width / view.zoom); column++) {
          const far = Math.hypot((column + 0.5) * TILE - middle[0], (row + 0.5) * TILE - middle[1]);
          tiles.push({ column, row, far });
        }
      }
      for (const { column, row } of tiles.sort((a, b) => a.far - b.far)) {
        const slot = filtered ? yield* prepare(column, row) : 0;
        const corner = [column * TILE - EDGE, row * TILE - EDGE];
        const [left, right] = span(column * TILE, Math.min(sizeInCells[0], (column + 1) * TILE), view.left, view.zoom, canvas.width);
        const [top, bottom] = span(row * TILE, Math.min(sizeInCells[1], (row + 1) * TILE), view.top, view.zoom, canvas.height);
        for (let y = top; y < bottom; y += CHUNK) {
          for (let x = left; x < right; x += CHUNK) {
            onCanvas(view, drawFunction, x, y, Math.min(right, x + CHUNK), Math.min(bottom, y + CHUNK), { slot, corner });
            yield;
          }
        }
      }
    },
  };
}

// ---------------------------------------------------------------------------------------------- the person

/** Shows the ordinary picture alone, and why. */
function giveUp(reason) {
  canvas.hidden = tools.hidden = true;
  plain.hidden = false;
  main.setAttribute('aria-busy', 'false');
  element('notice').textContent = `This is the ordinary picture: ${reason}.`;
}

/** Follows wheel, pointers, keys and buttons, and draws what is to be seen, a little per frame. */
function start(gl, paint) {
  const now = { x: size[0] / 2, y: size[1] / 2, zoom: 1 };  // what is in the middle of the canvas
  let goal = null;       // where zooming goes: a zoom, and a place of the screen that stays where it is
  let fitted = true;     // until the person zooms
  let dirty = true;
  let work = null;
  let fence = null;
  let began = 0;
  let pace = 1;          // steps per frame
  let asked = false;
  const still = matchMedia('(prefers-reduced-motion: reduce)');
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const fit = () => clamp(Math.min(canvas.width / size[0], canvas.height / size[1]), 1 / 64, MAX_ZOOM);
  const least = () => Math.min(1, fit()) / 2;
  const mode = () => tools.elements.mode.value;
  const ratio = () => canvas.width / canvas.clientWidth;  // canvas pixels per CSS pixel
  const placeOf = (event) => [event.offsetX * ratio(), event.offsetY * ratio()];
  const middle = () => [canvas.width / 2, canvas.height / 2];

  function ask() {
    if (!asked) requestAnimationFrame(frame);
    asked = true;
    main.setAttribute('aria-busy', 'true');
  }

  function touch() {
    dirty = true;
    ask();
  }

  function moveTo(x, y) {
    now.x = clamp(x, 0, size[0]);
    now.y = clamp(y, 0, size[1]);
    touch();
  }

  function zoomNow(zoom, [px, py]) {
    const change = 1 / now.zoom - 1 / zoom;
    now.zoom = zoom;
    moveTo(now.x + (px - canvas.width / 2) * change, now.y + (py - canvas.height / 2) * change);
  }

  function zoomTo(zoom, place = middle()) {
    fitted = false;
    goal = { zoom: clamp(zoom, least(), MAX_ZOOM), place };
    ask();
  }

  const zoomBy = (factor, place) => zoomTo((goal?.zoom ?? now.zoom) * factor, place);

  function fitAgain() {
    fitted = true;
    goal = null;
    now.zoom = fit();
    moveTo(size[0] / 2, size[1] / 2);
  }

  function resize() {
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio));
    if (fitted) fitAgain(); else touch();
  }

  /** What is seen. Its corner is on a pixel of the screen, so that at 1:1 samples are pixels. */
  function view() {
    const corner = (centre, extent) => Math.round(centre * now.zoom - extent / 2) / now.zoom;
    return { zoom: now.zoom, left: corner(now.x, canvas.width), top: corner(now.y, canvas.height) };
  }

  function frame(time) {
    asked = false;
    if (gl.isContextLost()) return;
    if (fence) {
      if (gl.clientWaitSync(fence, 0, 0) === gl.TIMEOUT_EXPIRED) return ask();
      gl.deleteSync(fence);
      fence = null;
      if (time - began < BRISK) pace = Math.min(2 * pace, 4096);
      if (time - began > SLOW) pace = Math.max(1, pace >> 1);
    }
    if (goal) {
      const left = Math.log(goal.zoom / now.zoom);
      const there = still.matches || Math.abs(left) < 0.01;
      zoomNow(there ? goal.zoom : now.zoom * Math.exp(0.3 * left), goal.place);
      if (there) goal = null;
    }
    if (dirty) {
      dirty = false;
      const seen = view();
      element('zoom').textContent = `${(100 * now.zoom).toLocaleString('en', { maximumSignificantDigits: 3 })} %`;
      paint.picture(seen, mode() === 'nearest');
      work = mode() === 'network' && now.zoom >= 1 ? paint.refine(seen) : null;
    }
    if (work) {
      for (let step = 0; work && step < pace; step++) if (work.next().done) work = null;
      fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
      began = time;
    }
    if (work || fence || goal) ask(); else main.setAttribute('aria-busy', 'false');
  }

  const pointers = new Map();
  canvas.addEventListener('pointerdown', (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, placeOf(event));
  });
  canvas.addEventListener('pointermove', (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const after = placeOf(event);
    const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    pointers.set(event.pointerId, after);
    goal = null;
    const share = other ? 0.5 : 1;  // of two fingers, each moves their middle half as far
    moveTo(now.x - share * (after[0] - before[0]) / now.zoom, now.y - share * (after[1] - before[1]) / now.zoom);
    if (other) {
      const distance = (place) => Math.max(1, Math.hypot(place[0] - other[0], place[1] - other[1]));
      fitted = false;
      zoomNow(clamp(now.zoom * distance(after) / distance(before), least(), MAX_ZOOM),
        [(after[0] + other[0]) / 2, (after[1] + other[1]) / 2]);
    }
  });
  for (const kind of ['pointerup', 'pointercancel']) {
    canvas.addEventListener(kind, (event) => pointers.delete(event.pointerId));
  }
  canvas.addEventListener('wheel', (event) => {
    event.preventDefault();
    const lines = [1, 16, 400][event.deltaMode];
    zoomBy(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)), placeOf(event));
  }, { passive: false });
  canvas.addEventListener('dblclick', (event) => zoomBy(event.shiftKey ? 0.5 : 2, placeOf(event)));

  const far = () => Math.min(canvas.width, canvas.height) / 8 / now.zoom;
  const keys = {
    '+': () => zoomBy(1.5), '=': () => zoomBy(1.5), '-': () => zoomBy(1 / 1.5), '0': fitAgain, '1': () => zoomTo(1),
    n: () => choose('network'), b: () => choose('bilinear'), p: () => choose('nearest'),
    ArrowLeft: () => moveTo(now.x - far(), now.y), ArrowRight: () => moveTo(now.x + far(), now.y),
    ArrowUp: () => moveTo(now.x, now.y - far()), ArrowDown: () => moveTo(now.x, now.y + far()),
  };
  function choose(value) {
    tools.elements.mode.value = value;
    touch();
  }
  addEventListener('keydown', (event) => {
    const chosen = keys[event.key];
    const radio = event.target.type === 'radio' && event.key.startsWith('Arrow');  // which the arrows switch
    if (!chosen || radio || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    chosen();
  });
  tools.addEventListener('change', touch);
  tools.addEventListener('submit', (event) => event.preventDefault());
  for (const [id, key] of [['in', '+'], ['out', '-'], ['fit', '0'], ['one', '1']]) {
    element(id).addEventListener('click', keys[key]);
  }
  canvas.addEventListener('webglcontextlost', () => giveUp('the graphics driver has given up'));
  new ResizeObserver(resize).observe(canvas);

  plain.hidden = true;
  canvas.hidden = tools.hidden = false;
}

(async () => {
  main.setAttribute('aria-busy', 'true');
  try {
    const gl = canvas.getContext('webgl2', { alpha: false, antialias: false, depth: false, preserveDrawingBuffer: true });
    if (!gl) throw new Error('WebGL2 is missing');
    const [bytes] = await Promise.all([inflate(model.data), plain.decode()]);
    start(gl, painter(gl, bytes));
  } catch (error) {
    giveUp(error.message);
  }
})();
