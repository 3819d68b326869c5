// Tokens from a bundle in Rust, without crates.
//
//     rustc -O generate.rs -L build/native/lib -l gemma3 -C link-arg=-Wl,-rpath,$PWD/build/native/lib
//     ./generate bundle 2,17,18 16
use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_void};
use std::ptr::{null, null_mut};

#[repr(C)]
struct Error { status: i32, message: [c_char; 2036], needed: u64 }
#[repr(C)]
struct Options {
    size: usize, bundle: *const c_char, plugin: *const c_char, mesh: *const c_char,
}
#[repr(C)]
struct Prompt { tokens: *const i32, count: usize }
#[repr(C)]
struct Request {
    size: usize, prompts: *const Prompt, prompt_size: usize, prompt_count: usize,
    max_new_tokens: u32, logprobs: u32, sampling: *const c_void, sampling_size: usize,
    sampling_count: usize, stop_tokens: *const i32, stop_count: usize,
    chunk: u32, task: i32, flags: u64,
}
#[repr(C)]
struct Token { size: usize, prompt: u32, index: u32, token: i32 }
enum Model {}
type OnToken = extern "C" fn(*mut c_void, *const Token) -> i32;

const IGNORE_EOS: u64 = 1;

extern "C" {
    fn gemma3_open(options: *const Options, model: *mut *mut Model, error: *mut Error) -> i32;
    fn gemma3_generate(model: *mut Model, request: *const Request, on_token: OnToken,
                       user: *mut c_void, error: *mut Error) -> i32;
    fn gemma3_close(model: *mut Model);
}

// Structs are shorter than the header's: their sizes say so, and the rest has its defaults.
fn check(status: i32, error: &Error) {
    if status != 0 {
        eprintln!("error: {}", unsafe { CStr::from_ptr(error.message.as_ptr()) }.to_string_lossy());
        std::process::exit(status);
    }
}

extern "C" fn collect(user: *mut c_void, token: *const Token) -> i32 {
    let (tokens, token) = unsafe { (&mut *(user as *mut Vec<i32>), &*token) };
    tokens.push(token.token);
    0
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let bundle = CString::new(arguments[1].as_str()).unwrap();
    let tokens: Vec<i32> = arguments[2].split(',').map(|id| id.parse().unwrap()).collect();
    let mut error = Error { status: 0, message: [0; 2036], needed: 0 };
    let mut model = null_mut();
    let options = Options {
        size: std::mem::size_of::<Options>(), bundle: bundle.as_ptr(), plugin: null(), mesh: null(),
    };
    check(unsafe { gemma3_open(&options, &mut model, &mut error) }, &error);

    let prompt = Prompt { tokens: tokens.as_ptr(), count: tokens.len() };
    let request = Request {
        size: std::mem::size_of::<Request>(), prompts: &prompt,
        prompt_size: std::mem::size_of::<Prompt>(), prompt_count: 1,
        max_new_tokens: arguments[3].parse().unwrap(), logprobs: 0, sampling: null(),
        sampling_size: 0, sampling_count: 0, stop_tokens: null(), stop_count: 0, chunk: 0, task: 0,
        flags: IGNORE_EOS,
    };
    let mut new: Vec<i32> = Vec::new();
    let user = &mut new as *mut _ as *mut c_void;
    let status =
        unsafe { gemma3_generate(model, &request, collect, user, &mut error) };
    check(status, &error);
    unsafe { gemma3_close(model) };
    println!("{}", new.iter().map(i32::to_string).collect::<Vec<_>>().join(" "));
}
