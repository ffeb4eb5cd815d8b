// What the pages say, in English and Chinese.
const EN = {
  page_runs: "Runs", page_run: "Run", page_sample: "Make images", page_compare: "Compare", page_inpaint: "Inpaint",
  page_start: "New run", page_task: "Task",
  no_runs: "No runs here yet", no_runs_text: "Runs whose output_dir lies in this folder appear here by themselves, also those that are started in a terminal.",
  going_on: "Going on", loss: "loss", rate: "{n} images/s", skips: "{n} skipped updates", left: "{time} left", days: "{n} days",
  step_of: "step {step} of {total}", step: "step {step}",
  state_running: "running", state_finished: "finished", state_stopped: "stopped", state_failed: "failed", state_lost: "ended without a word",
  state_unknown: "not running", state_done: "done", state_waiting: "waiting", state_starting: "starting",
  kind_sample: "Images", kind_inpaint: "Inpainting", kind_train: "Training", kind_plan: "Plan",
  machine: "Machine", processor: "CPU, {n} cores", memory: "memory", disk: "disk", free: "{size} free",
  in_short: "In short", curves: "Curves", no_curves: "None recorded yet.", denoising: "Denoising", samples: "Samples over the steps",
  log: "Log", log_elsewhere: "This run was started elsewhere: its log is in the terminal that started it.",
  settings: "Settings", changed: "Changed from the default", defaults: "{n} settings at their default", versions: "Versions",
  stop: "Stop", resume: "Resume", sample_it: "Make images", compare_it: "Compare", start_like_it: "New run like this",
  model: "Model", options: "Options", make_images: "Make images", gallery_empty: "Images will appear here.",
  seed: "seed {seed}", image_number: "image {n}", copy: "Copy", copied: "Copied", commands: "Commands that repeat this",
  more_settings: "All other settings ({n})", default: "default", default_is: "default: {value}", yes: "yes", no: "no", one_a_line: "one a line",
  this_folder: "this folder", other_model: "another folder, or a name on the Hub", no_models: "No saved pipelines in this folder yet.",
  choose_two_runs: "Choose two runs or more.", differences: "Settings that differ", no_differences: "None.",
  same_noise: "Images from the same noise", same_noise_text: "Choose two models or more. Each starts from the same seed, so image by image from the same noise.",
  what: "What to train", job: "Job", run_name: "Name of the run", run_name_text: "A folder of this name is made in the studio's folder.",
  ranks: "Processes", ranks_text: "One for each NPU or GPU of this machine that is to train; the batch size is that of each.",
  before_start: "Before the start", no_problems: "No problems found in the settings.", show_plan: "Show the plan", start: "Start",
  plan: "Plan", planning: "Opening data and model; nothing is trained.", starting_text: "Starting ...",
  draw_mask: "Image and mask", draw_mask_text: "Choose an image, and draw over what is to be made anew.", choose_image: "Choose an image",
  brush: "Brush", undo: "Undo", clear: "Clear",
  lost_connection: "The studio does not answer. Runs go on; this page tries again.", unexpected: "Unexpected answer ({status}).",
};
const ZH = {
  page_runs: "训练", page_run: "训练", page_sample: "生成图片", page_compare: "对比", page_inpaint: "局部重绘", page_start: "新训练", page_task: "任务",
  no_runs: "这里还没有训练", no_runs_text: "output_dir 在此文件夹内的训练会自动出现在这里，包括从终端启动的训练。",
  going_on: "正在进行", loss: "损失", rate: "每秒 {n} 张", skips: "跳过 {n} 次更新", left: "剩余 {time}", days: "{n} 天",
  step_of: "第 {step} 步，共 {total} 步", step: "第 {step} 步",
  state_running: "运行中", state_finished: "已完成", state_stopped: "已停止", state_failed: "失败", state_lost: "意外中断", state_unknown: "未在运行",
  state_done: "完成", state_waiting: "排队中", state_starting: "启动中",
  kind_sample: "图片", kind_inpaint: "局部重绘", kind_train: "训练", kind_plan: "计划",
  machine: "机器", processor: "CPU，{n} 核", memory: "内存", disk: "磁盘", free: "剩余 {size}",
  in_short: "概况", curves: "曲线", no_curves: "尚无记录。", denoising: "去噪过程", samples: "各步的样本",
  log: "日志", log_elsewhere: "此训练不是从这里启动的，日志在启动它的终端里。",
  settings: "设置", changed: "与默认值不同", defaults: "{n} 项为默认值", versions: "版本",
  stop: "停止", resume: "继续训练", sample_it: "生成图片", compare_it: "对比", start_like_it: "以此新建训练",
  model: "模型", options: "选项", make_images: "生成图片", gallery_empty: "图片会显示在这里。",
  seed: "种子 {seed}", image_number: "第 {n} 张", copy: "复制", copied: "已复制", commands: "可重现的命令",
  more_settings: "其他全部设置（{n} 项）", default: "默认", default_is: "默认：{value}", yes: "是", no: "否", one_a_line: "每行一个",
  this_folder: "此文件夹", other_model: "其他文件夹，或 Hub 上的名称", no_models: "此文件夹中还没有保存的 pipeline。",
  choose_two_runs: "请选择两个或更多训练。", differences: "不同的设置", no_differences: "没有。",
  same_noise: "从相同噪声生成的图片", same_noise_text: "请选择两个或更多模型。它们使用同一个种子，每张图片都从相同的噪声开始。",
  what: "训练什么", job: "任务类型", run_name: "训练名称", run_name_text: "会在 studio 的文件夹中创建同名文件夹。",
  ranks: "进程数", ranks_text: "本机参与训练的每个 NPU 或 GPU 一个进程；批大小是每个进程的。",
  before_start: "启动之前", no_problems: "设置没有发现问题。", show_plan: "查看计划", start: "启动",
  plan: "计划", planning: "正在打开数据和模型；不会开始训练。", starting_text: "正在启动……",
  draw_mask: "图片与蒙版", draw_mask_text: "选择一张图片，涂抹需要重新生成的部分。", choose_image: "选择图片",
  brush: "画笔", undo: "撤销", clear: "清除",
  lost_connection: "studio 没有响应。训练仍在继续；此页面会自动重试。", unexpected: "意外的响应（{status}）。",
};
// Names of the most usual settings. Others have their own name alone.
const LABELS_EN = {
  dataset_name: "Data set", train_data_dir: "Folder of images", pretrained_model_name_or_path: "Base model", image_size: "Image size, pixels",
  channels: "Colour channels", preset: "Size of the network", class_conditional: "With classes", train_batch_size: "Batch size",
  max_train_steps: "Steps", num_epochs: "Epochs", learning_rate: "Learning rate", lr_warmup_steps: "Warm-up steps",
  use_ema: "Average the weights", save_image_steps: "Steps between samples", checkpointing_steps: "Steps between checkpoints",
  mixed_precision: "Precision", rank: "LoRA rank", instance_prompt: "Prompt of the subject", validation_prompts: "Prompts of the samples",
  placeholder_token: "New word", initializer_token: "Word to begin with", prompt: "Prompts", negative_prompt: "Negative prompt",
  class_label: "Classes", num_images: "Number of images", seed: "Seed", scheduler: "Sampler", num_inference_steps: "Steps",
  guidance_scale: "Guidance", lora: "LoRA adapters, with weights", embedding: "Learned words",
};
const LABELS_ZH = {
  dataset_name: "数据集", train_data_dir: "图片文件夹", pretrained_model_name_or_path: "基础模型", image_size: "图片边长（像素）", channels: "颜色通道",
  preset: "网络规模", class_conditional: "带类别", train_batch_size: "批大小", max_train_steps: "步数", num_epochs: "轮数", learning_rate: "学习率",
  lr_warmup_steps: "预热步数", use_ema: "权重平均（EMA）", save_image_steps: "样本间隔步数", checkpointing_steps: "检查点间隔步数", mixed_precision: "精度",
  rank: "LoRA 秩", instance_prompt: "主体提示词", validation_prompts: "样本提示词", placeholder_token: "新词", initializer_token: "初始词",
  prompt: "提示词", negative_prompt: "反向提示词", class_label: "类别", num_images: "图片数量", seed: "种子", scheduler: "采样器",
  num_inference_steps: "步数", guidance_scale: "引导强度", lora: "LoRA 适配器及权重", embedding: "学到的词",
};
const KEY = "mindone-ddpm-language";

export function language() {
  let kept = null;
  try { kept = localStorage.getItem(KEY); } catch { /* a browser that keeps nothing */ }
  return kept ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
}

export function setLanguage(name) {
  try { localStorage.setItem(KEY, name); } catch { /* then until the page is left */ }
}

export function t(name, values = {}) {
  const text = (language() === "zh" ? ZH : EN)[name] ?? EN[name] ?? name;
  return text.replace(/\{(\w+)\}/g, (_, key) => values[key] ?? "");
}

export const label = (name) => (language() === "zh" ? LABELS_ZH : LABELS_EN)[name] ?? "";
