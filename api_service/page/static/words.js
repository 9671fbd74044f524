// The page's own sentences. What the server says is shown as it comes, except problems, which it words in English only.

const english = {
  greeting: "What would you like to know?",
  greetingNote: "You can close this page: your question is kept, and its answer is here when you come back.",
  skip: "Skip to the question box",
  questions: "Your questions",
  noQuestions: "Questions that you ask in this browser are listed here.",
  newQuestion: "New question",
  question: "Question",
  questionNumber: (id) => `Question ${id}`,
  answer: "Answer",
  askLabel: "Your question",
  askPlaceholder: "Ask anything",
  askHint: "Enter sends, Shift+Enter starts a new line",
  ask: "Ask",
  stop: "Stop",
  askAgain: "Ask again",
  copyAnswer: "Copy answer",
  copy: "Copy",
  copied: "Copied",
  notCopied: "The browser does not allow copying: select the text instead.",
  remove: (text) => `Remove from the list: ${text}`,
  code: "Code",
  table: "Table",
  image: (words) => (words ? `Image: ${words}` : "Image"),
  changeKey: "Change the key",
  keyTitle: "This server asks for a key",
  keyNote: "You get one from whoever runs it. It is kept in this browser only.",
  keyLabel: "Key",
  keyUse: "Use this key",
  keyCancel: "Not now",
  keyForget: "Forget the key",
  keyRefused: "This key is not known, has expired or was revoked.",
  keyMalformed: "This is no key: it has characters that no key has.",
  sending: "Sending…",
  doNotSend: "Do not send",
  sendingWaits: (why) => `${why} Your question is kept here and is sent as soon as that works.`,
  connecting: "Connecting…",
  offline: "The server cannot be reached.",
  reconnecting: (why) => `${why} Trying again by itself…`,
  restarted: "The model had to start over.",
  stopping: "Stopping…",
  stopFailed: (why) => `It could not be stopped. ${why}`,
  states: {
    queued: "Waiting",
    in_progress: "Writing",
    completed: "Answered",
    incomplete: "Cut off",
    failed: "Failed",
    cancelled: "Stopped",
    expired: "Too late",
    gone: "Not here",
  },
  position: (n) => (n <= 1 ? "Next in line" : `Number ${number(n)} in line`),
  positionAtLeast: (n) => `Beyond number ${number(n)} in line`,
  wait: (seconds) => `about ${duration(seconds)} to wait`,
  writing: "Writing…",
  completed: (seconds) => (seconds === null ? "Answered" : `Answered in ${duration(seconds)}`),
  cached: "Answered before: this is the same answer.",
  cutOff: {
    output_limit: "The answer is cut off: it reached the longest length that is set here. Ask for a shorter answer, or for a part of it.",
    time_limit: "The answer is cut off: it took longer than is allowed here. Ask for a shorter answer, or ask again.",
    content_filter: "The model server's content filter cut the answer off. Ask in another way.",
    other: "The answer is cut off.",
  },
  replayed: (id) => `It was asked again for you: see question ${id}.`,
  reference: (id) => `Tell the operator this reference: ${id}`,
  problems: {
    question_not_found: "There is no question with this number here. Perhaps the link is wrong, or it was removed.",
    unauthenticated: "The server asks for a key.",
  },
  unexpected: (status) => `The server answered with an error (${status}). Try again later, or tell the operator.`,
};

const russian = {
  greeting: "Что вы хотите узнать?",
  greetingNote: "Страницу можно закрыть: вопрос сохранён, а ответ будет здесь, когда вы вернётесь.",
  skip: "Перейти к полю вопроса",
  questions: "Ваши вопросы",
  noQuestions: "Здесь будут вопросы, заданные в этом браузере.",
  newQuestion: "Новый вопрос",
  question: "Вопрос",
  questionNumber: (id) => `Вопрос ${id}`,
  answer: "Ответ",
  askLabel: "Ваш вопрос",
  askPlaceholder: "Спросите о чём угодно",
  askHint: "Enter — отправить, Shift+Enter — новая строка",
  ask: "Спросить",
  stop: "Остановить",
  askAgain: "Ещё раз",
  copyAnswer: "Копировать ответ",
  copy: "Копировать",
  copied: "Скопировано",
  notCopied: "Браузер не разрешает копировать: выделите текст сами.",
  remove: (text) => `Убрать из списка: ${text}`,
  code: "Код",
  table: "Таблица",
  image: (words) => (words ? `Изображение: ${words}` : "Изображение"),
  changeKey: "Сменить ключ",
  keyTitle: "Этот сервер просит ключ",
  keyNote: "Его выдаёт тот, кто ведёт сервер. Ключ хранится только в этом браузере.",
  keyLabel: "Ключ",
  keyUse: "Войти с этим ключом",
  keyCancel: "Не сейчас",
  keyForget: "Забыть ключ",
  keyRefused: "Этот ключ неизвестен, просрочен или отозван.",
  keyMalformed: "Это не ключ: в нём есть недопустимые символы.",
  sending: "Отправляется…",
  doNotSend: "Не отправлять",
  sendingWaits: (why) => `${why} Вопрос сохранён здесь и будет отправлен, как только это получится.`,
  connecting: "Соединение…",
  offline: "Сервер недоступен.",
  reconnecting: (why) => `${why} Страница пробует снова сама…`,
  restarted: "Модели пришлось начать заново.",
  stopping: "Останавливается…",
  stopFailed: (why) => `Остановить не получилось. ${why}`,
  states: {
    queued: "Ожидает",
    in_progress: "Пишется",
    completed: "Есть ответ",
    incomplete: "Оборван",
    failed: "Ошибка",
    cancelled: "Остановлен",
    expired: "Не успел",
    gone: "Не найден",
  },
  position: (n) => (n <= 1 ? "Следующий в очереди" : `${number(n)}-й в очереди`),
  positionAtLeast: (n) => `Дальше ${number(n)}-го места в очереди`,
  wait: (seconds) => `ждать примерно ${duration(seconds)}`,
  writing: "Пишется…",
  completed: (seconds) => (seconds === null ? "Есть ответ" : `Ответ за ${duration(seconds)}`),
  cached: "На этот вопрос уже отвечали: это тот же ответ.",
  cutOff: {
    output_limit: "Ответ оборван: достигнута наибольшая длина, которая здесь задана. Попросите ответить короче или по частям.",
    time_limit: "Ответ оборван: он писался дольше, чем здесь разрешено. Попросите ответить короче или спросите ещё раз.",
    content_filter: "Ответ оборван фильтром содержимого сервера модели. Спросите иначе.",
    other: "Ответ оборван.",
  },
  replayed: (id) => `Его задали за вас ещё раз: смотрите вопрос ${id}.`,
  reference: (id) => `Сообщите администратору этот номер: ${id}`,
  problems: {
    question_not_found: "Вопроса с таким номером здесь нет. Возможно, ссылка неверна или вопрос удалён.",
    unauthenticated: "Сервер просит ключ.",
    forbidden: "С этим ключом это не разрешено.",
    issuer_unavailable: "Сейчас нельзя проверить, кто вы.",
    invalid_field: "Вопрос не принят: он пуст, слишком длинный или содержит недопустимые символы. Измените его.",
    invalid_json: "Вопрос не принят: он содержит недопустимые символы. Измените его.",
    body_too_large: "Вопрос слишком длинный. Сократите его.",
    body_timeout: "Вопрос передавался слишком долго. Проверьте соединение и спросите ещё раз.",
    backlog_full: "Слишком много вопросов уже ждут ответа.",
    database_unavailable: "База данных сейчас не отвечает. С вашим вопросом всё в порядке.",
    internal_error: "В сервисе ошибка, ваш вопрос ни при чём.",
  },
  unexpected: (status) => `Сервер ответил ошибкой (${status}). Попробуйте позже или сообщите администратору.`,
};

const dictionaries = { en: english, ru: russian };

/** The first of the browser's languages that the page has words in: the same rule as the server's. */
export const language =
  navigator.languages.map((tag) => tag.split("-")[0].toLowerCase()).find((tag) => tag in dictionaries) ?? "en";

export const words = dictionaries[language];

const numbers = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });

function number(value) {
  return numbers.format(value);
}

/** Seconds in the unit that people would say. */
export function duration(seconds) {
  const [value, unit] =
    seconds < 9.95
      ? [Math.max(0.1, Math.round(seconds * 10) / 10), "second"]
      : seconds < 90
        ? [Math.round(seconds), "second"]
        : seconds < 5400
          ? [Math.round(seconds / 60), "minute"]
          : [Math.round(seconds / 3600), "hour"];
  return new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "short" }).format(value);
}

const dayAndTime = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
const timeOnly = new Intl.DateTimeFormat(language, { timeStyle: "short" });

/** When a question was asked: the time alone if it was today. */
export function moment(milliseconds) {
  const date = new Date(milliseconds);
  return (date.toDateString() === new Date().toDateString() ? timeOnly : dayAndTime).format(date);
}

/** Fill every element that names a word: data-text its text, data-label its accessible name, data-hint its placeholder. */
export function speak(root) {
  for (const element of root.querySelectorAll("[data-text]")) {
    element.textContent = words[element.dataset.text];
  }
  for (const element of root.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", words[element.dataset.label]);
  }
  for (const element of root.querySelectorAll("[data-hint]")) {
    element.setAttribute("placeholder", words[element.dataset.hint]);
  }
}
