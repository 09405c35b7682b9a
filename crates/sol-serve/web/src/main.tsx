import { render } from "preact";
import { App } from "./app";
import { connect } from "./state";
import "./style.css";

render(<App />, document.body);
void connect();
